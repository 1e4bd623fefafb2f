"""Instructions that a file costs on Arm: the aarch64 runtime, emulated by qemu-user.

Times under emulation mean nothing, counts of instructions do, somewhat: a sparse kernel's load that
misses a cache counts like any other. One inference is the difference between a process that runs
the file nine times and one that runs it once, over eight.

    python benchmarks/arm_instructions.py --prepare FOLDER     # Debian: apt, pip, gcc, qemu-user
    python benchmarks/arm_instructions.py --root FOLDER dense.tflite sparse.tflite ...

`--prepare` unpacks Debian's arm64 Python 3.11 and aarch64 wheels into a folder; nothing is
installed. XNNPACK asks /proc/cpuinfo what the processor is, and qemu shows it the host's:
ai-edge-litert 2.3.0 crashes on that. So the folder gets a /proc/cpuinfo of a Cortex-A76, which is
what qemu emulates.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEBS = [
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libssl3",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libcrypt1",
]
WHEELS = [
    "ai-edge-litert==2.3.0",
    "numpy",
    "flatbuffers",
    "ml_dtypes",
    "backports.strenum",
    "protobuf",
    "typing_extensions",
    "tqdm",
]
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
CPU_INFO = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 0
"""
# What runs inside: invokes a file so many times on fixed noise.
INSIDE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
kind = getattr(OpResolverType, sys.argv[4])
model = Interpreter(sys.argv[2], num_threads=1, experimental_op_resolver_type=kind)
model.allocate_tensors()
for port in model.get_input_details():
    noise = np.random.default_rng(0).normal(size=port["shape"]).astype(port["dtype"])
    model.set_tensor(port["index"], noise)
for _ in range(int(sys.argv[3])):
    model.invoke()
found = model.get_tensor(model.get_output_details()[0]["index"]).ravel()
print("outputs", *(float(value).hex() for value in found[:1000]))
"""


def prepare(root: Path) -> None:
    """Fills a folder with an arm64 Python, the runtime and qemu's plugin.

    Args:
        root: the folder.
    """
    for part in ("state/lists/partial", "cache/archives/partial", "debs", "wheels", "site"):
        (root / part).mkdir(parents=True, exist_ok=True)
    status = root / "state" / "status"
    status.touch()
    # An apt of its own: the machine's list of architectures stays as it is.
    own = {
        "Dir::State": root / "state",
        "Dir::State::status": status,
        "Dir::Cache": root / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
    }
    apt = ["apt-get", *(part for key, value in own.items() for part in ("-o", f"{key}={value}"))]
    subprocess.run([*apt, "update", "-qq"], check=True)
    subprocess.run([*apt, "download", "-qq", *DEBS], cwd=root / "debs", check=True)
    for package in sorted((root / "debs").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root / "system"], check=True)
    places = [part for name in PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    pip = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary=:all:"]
    version = ["--python-version", "3.11", "-d", str(root / "wheels")]
    subprocess.run([*pip, *places, *version, *WHEELS], check=True)
    for wheel in sorted((root / "wheels").glob("*.whl")):
        subprocess.run(["unzip", "-qo", wheel, "-d", root / "site"], check=True)
    (root / "system" / "proc").mkdir(exist_ok=True)
    (root / "system" / "proc" / "cpuinfo").write_text(CPU_INFO)
    build = ["gcc", "-shared", "-fPIC", "-O2", "-o", root / "count.so", HERE / "count.c"]
    subprocess.run(build, check=True)


def run(root: Path, file: Path, times: int, kernels: str = "AUTO") -> tuple[int, list[float]]:
    """Instructions of a whole process that runs a file, and the first outputs.

    Args:
        root: the folder that `prepare` filled.
        file: `.tflite` file.
        times: how often it is run.
        kernels: name in the runtime's `OpResolverType`.
    """
    python = root / "system" / "usr" / "bin" / "python3.11"
    emulator = ["qemu-aarch64", "-cpu", "cortex-a76", "-plugin", root / "count.so"]
    command = [*emulator, "-L", root / "system", "-E", "PYTHONHASHSEED=0", python, "-c", INSIDE]
    done = subprocess.run(
        [*map(str, command), str(root / "site"), str(file.resolve()), str(times), kernels],
        capture_output=True,
        text=True,
    )
    counted = re.search(r"instructions (\d+)", done.stderr)
    outputs = re.search(r"outputs (.*)", done.stdout)
    if done.returncode or counted is None or outputs is None:
        raise SystemExit(f"{file} does not run: {done.stderr.strip()[-400:]}")
    return int(counted[1]), [float.fromhex(value) for value in outputs[1].split()]


def main() -> int:
    """Counts, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="fill it")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="that was prepared")
    parser.add_argument("files", type=Path, nargs="*")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare.resolve())
        return 0
    if options.root is None:
        parser.error("give --root, or --prepare")
    root, first = options.root.resolve(), 0.0
    print("| file | instructions of one inference | times fewer | error |\n|---|---:|---:|---:|")
    for file in options.files:
        once, outputs = run(root, file, 1)
        each = (run(root, file, 9)[0] - once) / 8
        right = run(root, file, 1, "BUILTIN_WITHOUT_DEFAULT_DELEGATES")[1]
        largest = max(map(abs, right)) or 1.0
        error = max(abs(a - b) for a, b in zip(outputs, right, strict=True)) / largest
        first = first or each
        print(f"| {file.name} | {each:,.0f} | {first / each:.2f} | {error:.0e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
