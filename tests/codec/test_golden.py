"""Files of every version of the format, written once and to be read for ever."""

import hashlib
import json
from pathlib import Path

import pytest

from sentei import codec

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    (version.name, name, digest)
    for version in sorted(GOLDEN.iterdir())
    for name, digest in json.loads((version / "digests.json").read_text()).items()
]


@pytest.mark.parametrize(("version", "name", "digest"), CASES)
def test_golden_files_come_back(tmp_path, version, name, digest):
    codec.unpack(GOLDEN / version / f"{name}.stz", tmp_path / "back")
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest


def test_no_golden_file_is_left_out():
    for version in GOLDEN.iterdir():
        listed = {f"{name}.stz" for _, name, _ in CASES} | {"digests.json"}
        assert listed == {item.name for item in version.iterdir()}
