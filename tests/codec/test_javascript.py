"""The decoder in JavaScript reads what Python packs, and refuses damage."""

import json
import shutil
import subprocess
from pathlib import Path

import codec_samples
import flatfiles
import pytest
from codec_samples import KINDS, weights

from sentei import codec

GOLDEN = Path(__file__).parent / "golden"
SCRIPT = Path(codec.__file__).parent / "sentei-codec.js"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

UNPACK = """
const codec = require(process.argv[1]), fs = require("fs");
for (const name of process.argv.slice(2)) {
  fs.writeFileSync(name + ".out", codec.unpack(new Uint8Array(fs.readFileSync(name))));
}
"""
DAMAGE = """
const codec = require(process.argv[1]), fs = require("fs");
const whole = new Uint8Array(fs.readFileSync(process.argv[2])), wrong = [];
const refuse = (bytes, what) => {
  try { codec.unpack(bytes); wrong.push(what + " was not noticed"); } catch (error) {
    if (!(error instanceof codec.CorruptFile)) wrong.push(`${what}: ${error}`);
  }
};
for (let i = 0; i < whole.length; i++) {
  refuse(whole.subarray(0, i), `length ${i}`);
  for (const flip of [1, 128, 255]) {
    const damaged = whole.slice();
    damaged[i] ^= flip;
    refuse(damaged, `byte ${i}`);
  }
}
console.log(JSON.stringify(wrong));
"""


def node(program, *arguments):
    command = ["node", "-e", program, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_that_python_packs_comes_back(tmp_path):
    originals = {name: make() for name, make in flatfiles.FILES.items()}
    originals |= {"empty": b"", "zeros": bytes(100_000), "text": SCRIPT.read_bytes()}
    for kind in KINDS:
        arrays = {"a": weights(kind, (5, 3, 3, 20)), "b": weights(kind, (177,))}
        originals[kind] = codec_samples.safetensors(arrays)
    packed = {}
    for name, content in originals.items():
        (tmp_path / "source").write_bytes(content)
        for effort in ("fast", "max"):
            target = tmp_path / f"{name}.{effort}"
            codec.pack(tmp_path / "source", target, effort=effort)
            packed[target] = content
    node(UNPACK, *packed)
    for target, content in packed.items():
        assert target.with_name(target.name + ".out").read_bytes() == content, target.name


@pytest.mark.parametrize("name", ["static", "mixed"])
def test_every_flip_and_truncation_is_noticed(name):
    assert json.loads(node(DAMAGE, GOLDEN / "v1" / f"{name}.stz")) == []
