"""Files in the browser: who is found, what is served, what is made of what the page sends."""

import json
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import keras
import numpy as np
import pytest
from sparse_networks import NETWORKS, Options, build

import sentei
from sentei.cli import main
from sentei.core.errors import SenteiError
from sentei.litert.browser import found
from sentei.litert.browser.bench import benchmark_in_browser
from sentei.litert.browser.server import Visit, serve
from sentei.litert.runtime import Runner
from sentei.litert.sparsify import sparsify

TFLITE, LITERT = found.RUNTIMES

# Does what page.js does, with answers and times from a file instead of a runtime.
BROWSER = """#!{python}
import json, sys, urllib.request
url = sys.argv[-1].rstrip("/")
def get(path): return urllib.request.urlopen(url + path).read()
def post(path, body):
    urllib.request.urlopen(urllib.request.Request(url + path, body, method="POST"))
assert b"page.js" in get("/") and b"@litertjs/core" in get("/page.js")
plan, job = json.load(open({plan!r})), json.loads(get("/job"))
if plan["does"] == "end":
    sys.exit(3)
if plan["does"] in ("fail", job["runtime"]):
    post("/error", b"cannot allocate")
for place, file in enumerate(job["files"]):
    assert get(f"/files/{{place}}")[4:8] == b"TFL3"
    value = memoryview(get(f"/inputs/{{place}}/0")).cast("f")
    assert len(value) == 8 and file["inputs"][0]["shape"] == [1, 8]
    values = memoryview(bytearray(8)).cast("f")
    for i, x in enumerate(plan["outputs"][place]): values[i] = x
    post(f"/outputs/{{place}}/{{plan['key']}}?Float32Array", bytes(values.cast("B")))
post("/progress", b"4")
features = dict(simd=plan["does"] != "plain")
post("/result", json.dumps(dict(times=plan["times"], features=features, agent="Test/1")).encode())
import time; time.sleep(60)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of one small model."""
    folder = tmp_path_factory.mktemp("files")
    model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(2, name="scores")])
    for name in ("a.tflite", "b.tflite"):
        sentei.export(model, folder / name)
    return [folder / "a.tflite", folder / "b.tflite"]


def npm_packages(folder, *names):
    for name in names:
        package = folder / "node_modules" / name
        (package / "wasm").mkdir(parents=True)
        (package / "wasm" / "code.wasm").write_bytes(b"wasm of " + name.encode())
        (package / "package.json").write_text(json.dumps({"name": name, "version": "9.8.7"}))
    return folder / "node_modules"


@pytest.fixture
def stage(files, tmp_path):
    """A browser of ours that sends what it is told to, and one runtime."""
    plan, program = tmp_path / "plan.json", tmp_path / "browser"
    program.write_text(BROWSER.format(python=sys.executable, plan=str(plan)))
    program.chmod(0o755)
    modules = npm_packages(tmp_path, TFLITE)

    def play(does="well", outputs=None, times=((2.0, 4.0, 3.0), (1.0, 2.0, 3.0))):
        runner = Runner(files[0], kernels="builtin")
        (port,) = runner.inputs.values()
        right = runner(port.draw(np.random.default_rng(0)))["scores"].ravel().tolist()
        key = str(runner.outputs["scores"].index)
        told = {"does": does, "key": key, "times": times, "outputs": outputs or [right, right]}
        plan.write_text(json.dumps(told))
        return ["--browser", "--chromium", str(program), "--node-modules", str(modules)]

    return play


def test_medians_ratios_and_errors_of_what_the_page_sends(files, stage, capsys):
    arguments = stage()
    assert main(["bench", *map(str, files), "--runs", "3", "--json", *arguments]) == 0
    shown = json.loads(capsys.readouterr().out)
    first, second = shown["measurements"]
    assert first["runtime"] == f"{TFLITE} 9.8.7"
    assert (first["median_ms"], second["median_ms"]) == (3.0, 2.0)
    assert (first["ratio"], second["ratio"]) == (1.0, 0.5)  # of 1/2, 2/4 and 3/3, not 2/3
    assert second["quartiles_ms"] == [1.5, 2.5]
    assert first["error"] < 1e-6
    assert not first["goes_wrong"]
    assert shown["missing"] == [LITERT]


def test_wrong_outputs_are_named(files, stage, capsys):
    assert main(["bench", *map(str, files), *stage(outputs=[[1e6, 1.0], [float("nan"), 1.0]])]) == 0
    shown = capsys.readouterr().out
    for file in files:
        assert f"{file} goes wrong in {TFLITE} 9.8.7" in shown
    assert f"Not installed: {LITERT}. npm install --legacy-peer-deps {LITERT}@2.5.3" in shown


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("fail", "in the browser: cannot allocate"),
        ("end", "The browser ended with status 3 before its work was done"),
        ("plain", "found no SIMD in the browser"),
    ],
)
def test_a_visit_that_fails_says_why(does, message, files, stage, capsys):
    assert main(["bench", str(files[0]), *stage(does)]) == 1
    assert message in capsys.readouterr().err


def test_a_runtime_that_refuses_a_file_does_not_keep_others_from_it(files, stage, capsys):
    arguments = stage(LITERT)
    npm_packages(files[0].parent / "others", LITERT, "@litertjs/wasm-utils")
    arguments[-1] = str(npm_packages(files[0].parent / "others", TFLITE))
    assert main(["bench", *map(str, files), "--runs", "3", "--json", *arguments]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [item["runtime"] for item in shown["measurements"]] == [f"{TFLITE} 9.8.7"] * 2
    assert shown["refused"] == [f"{LITERT} in the browser: cannot allocate."]


def test_what_is_missing_is_said_in_a_line(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "--browser", str(files[0])]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "apt-get install chromium" in error
    with pytest.raises(SenteiError, match=r"npm install --legacy-peer-deps @tensorflow/tfjs-tfl"):
        found.runtimes(tmp_path)
    for given, message in (("--threads=2", "one thread"), ("--profile", "without --profile")):
        assert main(["bench", "--browser", given, str(files[0])]) == 1
        assert message in capsys.readouterr().err
    assert main(["bench", "--node-modules", "x", str(files[0])]) == 1
    assert "--node-modules is for --browser" in capsys.readouterr().err


def test_runtimes_are_found_above_and_need_their_own_packages(tmp_path, monkeypatch):
    npm_packages(tmp_path, LITERT)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("NODE_PATH", raising=False)
    with pytest.raises(SenteiError, match="No WebAssembly runtime"):
        found.runtimes()  # without @litertjs/wasm-utils it does not start
    npm_packages(tmp_path, "@litertjs/wasm-utils")
    (runtime,) = found.runtimes()
    assert (runtime.name, runtime.version) == (LITERT, "9.8.7")


def test_nothing_but_the_job_and_the_packages_is_served(tmp_path):
    modules = npm_packages(tmp_path, TFLITE)
    (modules / TFLITE / "out").symlink_to(tmp_path)
    (tmp_path / "secret.txt").write_text("secret")
    visit = Visit({"runtime": TFLITE}, [b"file"], [[b"in"]], {TFLITE: modules / TFLITE})
    server = serve(visit)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with urlopen(f"{url}/packages/{TFLITE}/wasm/code.wasm") as answer:
            assert answer.headers["Content-Type"] == "application/wasm"
            assert answer.read() == b"wasm of " + TFLITE.encode()
        outside = ("%2e%2e/%2e%2e/%2e%2e/secret.txt", "out/secret.txt", "../../../secret.txt")
        paths = [f"/packages/{TFLITE}/{path}" for path in outside]
        for path in (*paths, "/packages/other/x", "/files/1", "/files/x", "/inputs/0/1", "/etc"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(url + path)
        for path in ("/nonsense", "/outputs/0/y?Nothing", "/progress"):
            with pytest.raises(HTTPError, match="400"):
                urlopen(Request(url + path, b"?", method="POST"))
    finally:
        server.shutdown()
        server.server_close()


def _not_there():
    try:
        found.chromium()
        if len(found.runtimes()) < len(found.RUNTIMES):
            return "needs both runtimes of npm"
    except SenteiError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_the_browser_runs_sparse_and_goes_wrong_where_the_doctor_says_so(tmp_path):
    reason = _not_there()
    if reason:
        pytest.skip(reason)
    names = ("as it should be", "depthwise padded as TensorFlow does")
    paths = [tmp_path / f"{i}.tflite" for i in range(3)]
    for path, options in zip(paths[1:], (NETWORKS[name][0] for name in names), strict=True):
        sentei.export(build(options), path, sparse=False, verify=False)
        path.write_bytes(sparsify(path.read_bytes(), True)[0])
    sentei.export(build(Options()), paths[0], sparse=False, verify=False)
    results = benchmark_in_browser(paths, runs=5)
    assert len(results) == 6
    for item, path in zip(results, [*paths, *paths], strict=True):
        assert item.file == str(path)
        assert item.median_ms > 0
        # Wrong numbers come of running sparse only, so both runtimes do.
        assert item.goes_wrong == sentei.diagnose(path).goes_wrong == (path == paths[2])
        assert item.goes_wrong or item.error < 1e-5
