"""One visit of a page to this machine's own server: it fetches a job and posts what it found."""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from sentei.core.errors import SenteiError

_HERE = Path(__file__).parent
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
}
# JavaScript's typed arrays → NumPy's types.
_ARRAYS = {
    f"{kind}{bits}Array": np.dtype(f"{kind.lower()}{bits}")
    for kind, sizes in {"Float": (32, 64), "Int": (8, 16, 32), "Uint": (8, 16, 32)}.items()
    for bits in sizes
}


@dataclass
class Visit:
    """What is served to the page, and what it sends back.

    Attributes:
        job: What to do, for the page to read as JSON.
        files: The `.tflite` files' contents.
        inputs: Each file's inputs, as they lie in memory.
        packages: npm package → its folder; nothing else of the disk is served.
        outputs: File's place, key of the output → values.
        result: What the page sent in the end.
        signs: Rounds done, as they are reported; None ends the visit.
        failure: What went wrong in the page.
    """

    job: dict[str, Any]
    files: Sequence[bytes]
    inputs: Sequence[Sequence[bytes]]
    packages: dict[str, Path]
    outputs: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    signs: "queue.Queue[int | None]" = field(default_factory=queue.Queue)
    failure: str | None = None

    def content(self, path: str) -> tuple[bytes, str] | None:
        """What lies at a path of the server, and its type; None where nothing does.

        Args:
            path: Such as `/files/0`.
        """
        parts = unquote(path).strip("/").split("/")
        if parts in ([""], ["page.js"]):
            name = parts[0] or "page.html"
            return (_HERE / name).read_bytes(), _TYPES[Path(name).suffix]
        if parts == ["job"]:
            return json.dumps(self.job).encode(), _TYPES[".json"]
        kind, *rest = parts
        binary = "application/octet-stream"
        try:
            if kind == "files":
                return self.files[int(rest[0])], binary
            if kind == "inputs":
                return self.inputs[int(rest[0])][int(rest[1])], binary
        except (ValueError, IndexError):
            return None
        return self._packaged(rest) if kind == "packages" else None

    def _packaged(self, parts: list[str]) -> tuple[bytes, str] | None:
        """A file of one of the packages, and of nowhere else."""
        folder = self.packages.get("/".join(parts[:2]))
        if folder is None:
            return None
        file = folder.joinpath(*parts[2:]).resolve()
        if not (file.is_relative_to(folder.resolve()) and file.is_file()):
            return None
        return file.read_bytes(), _TYPES.get(file.suffix, "application/octet-stream")

    def receive(self, path: str, query: str, body: bytes) -> bool:
        """Takes what the page sends.

        Args:
            path: What it is: `/progress`, `/outputs/FILE/KEY`, `/result` or `/error`.
            query: The type of an output's values.
            body: The content.

        Returns:
            Whether it was understood.
        """
        kind, *rest = path.strip("/").split("/")
        if kind == "progress":
            self.signs.put(int(body))
        elif kind == "outputs" and query in _ARRAYS:
            self.outputs[int(rest[0]), unquote(rest[1])] = np.frombuffer(body, _ARRAYS[query])
        elif kind == "result":
            self.result = json.loads(body)
            self.signs.put(None)
        elif kind == "error":
            self.failure = body.decode(errors="replace")
            self.signs.put(None)
        else:
            return False
        return True


def serve(visit: Visit) -> ThreadingHTTPServer:
    """A server for one visit, running, on a free port of this machine alone.

    Args:
        visit: What it serves.

    Returns:
        The server; `server_address[1]` is its port, `shutdown` ends it.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = visit.content(urlsplit(self.path).path)
            content, kind = found or (b"", "text/plain")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                understood = visit.receive(url.path, url.query, body)
            except (ValueError, IndexError):
                understood = False
            self.send_response(200 if understood else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def attend(visit: Visit, browser: str, silence: float, done: Callable[[int], None]) -> None:
    """Opens the page in a headless browser and waits until it has sent its result.

    The browser gets an empty profile, and no name but this machine's leads anywhere.

    Args:
        visit: What the page is for.
        browser: Program to start.
        silence: Seconds without a sign of life after which the page is given up.
        done: Called with the number of rounds that were done.

    Raises:
        SenteiError: The page failed, fell silent, or the browser ended.
    """
    server = serve(visit)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [browser, *_flags(profile), f"http://127.0.0.1:{server.server_address[1]}/"]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                _wait(visit, process, silence, done)
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    finally:
        server.shutdown()
        server.server_close()
    if visit.failure is not None:
        raise SenteiError(f"{visit.job['runtime']} in the browser: {visit.failure}.")


def _wait(
    visit: Visit, process: "subprocess.Popen[bytes]", silence: float, done: Callable[[int], None]
) -> None:
    heard = time.monotonic()
    while True:
        try:
            rounds = visit.signs.get(timeout=1)
        except queue.Empty:
            if process.poll() is not None:
                raise SenteiError(
                    f"The browser ended with status {process.returncode} before its work was done. "
                    "Does it run here at all? Try: chromium --headless --dump-dom about:blank."
                ) from None
            if time.monotonic() - heard > silence:
                raise SenteiError(
                    f"The page has been silent for {silence:g} s and was given up. Give it fewer "
                    "or smaller files."
                ) from None
            continue
        if rounds is None:
            return
        heard = time.monotonic()
        done(rounds)


def _flags(profile: str) -> list[str]:
    flags = [
        "--headless=new",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--disable-sync",
        "--disable-component-update",
        "--disable-background-networking",
        "--disable-background-timer-throttling",
        "--disable-renderer-backgrounding",
    ]
    # Chromium refuses to run as root with its sandbox on; containers often are.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    return flags
