"""Small processes that stand in for the parts of a server.

``python stand_ins.py HOME PORT`` runs a whole server made of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sintonia.cli.homes import ServerFolder, ServerRecord
from sintonia.cli.serve import stop_signals, supervise
from sintonia.cli.supervisor import ChildSpec

STAND_IN_API = """
import http.server, os, sys, threading

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass

def end_with_stdin():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=end_with_stdin, daemon=True).start()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""

STAND_IN_WORKER = """
import os, sys
print("worker", os.getpid(), flush=True)
sys.stdin.read()
"""


def parts(home: Path, port: int) -> tuple[ServerFolder, ServerRecord, list[ChildSpec]]:
    """Return a server made of stand-ins."""
    folder = ServerFolder(home)
    record = ServerRecord(os.getpid(), "127.0.0.1", port, f"http://127.0.0.1:{port}", "0")
    specs = [
        ChildSpec("api", python(STAND_IN_API, str(port)), folder.logs / "api.log"),
        ChildSpec("worker", python(STAND_IN_WORKER), folder.logs / "worker.log"),
    ]
    return folder, record, specs


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> object:
    """Return what ``condition`` gives once it is true; fail when that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs ``code``."""
    return (sys.executable, "-c", code, *arguments)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] != "Z"


def main() -> None:
    folder, record, specs = parts(Path(sys.argv[1]), int(sys.argv[2]))
    folder.make()
    with folder.hold(), stop_signals() as stop:
        supervise(folder, record, specs, stop)


if __name__ == "__main__":
    main()
