"""The decoder in JavaScript reads what Python packs, and refuses damage."""

import base64
import json
import re
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
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
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


@pytest.mark.parametrize("name", ["static", "mixed", "deep"])
def test_every_flip_and_truncation_is_noticed(name):
    assert json.loads(node(DAMAGE, GOLDEN / "v1" / f"{name}.stz")) == []


PAGE = """
<!doctype html><meta charset="utf-8"><title>waiting</title><script>@SCRIPT@</script><script>
const files = @FILES@, wrong = [];
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
for (const [name, packed, digest] of files) {
  (async () => {
    const found = await crypto.subtle.digest("SHA-256", SenteiCodec.unpack(bytes(packed)));
    const hex = [...new Uint8Array(found)].map(b => b.toString(16).padStart(2, "0")).join("");
    if (hex !== digest) wrong.push(name);
  })().catch(error => wrong.push(`${name}: ${error}`)).finally(() => {
    files.done = (files.done || 0) + 1;
    if (files.done === files.length) document.title = "wrong: " + JSON.stringify(wrong);
  });
}
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_reads_all_golden_files(tmp_path):
    digests = json.loads((GOLDEN / "v1" / "digests.json").read_text())
    files = [
        [path.stem, base64.b64encode(path.read_bytes()).decode(), digests[path.stem]]
        for path in sorted((GOLDEN / "v1").glob("*.stz"))
    ]
    page = PAGE.replace("@SCRIPT@", SCRIPT.read_text()).replace("@FILES@", json.dumps(files))
    (tmp_path / "page.html").write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command.append((tmp_path / "page.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    assert title[1] == "wrong: []"
