"""Files up to the limits take no more memory than small ones. `make big-uploads` runs it.

``SINTONIA_TEST_UPLOAD_GB`` says how large the file in parts is; 2 unless it is given.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from live import LiveServer, chat_rows, home_with_tiny

MB = 1024 * 1024
FILE_BYTES = 512 * MB
PART_BYTES = 64 * MB
IN_PARTS_BYTES = int(os.environ.get("SINTONIA_TEST_UPLOAD_GB", "2")) * 1024 * MB
MOST_ABOVE_IDLE_BYTES = 200 * MB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def server(tiny_home, tmp_path_factory):
    home = home_with_tiny(tiny_home, tmp_path_factory.mktemp("big"))
    server = LiveServer(home, {"SINTONIA_ENGINE": "echo"}).start()
    yield server
    server.stop()


def held_bytes(server: LiveServer) -> int:
    """What all processes of a server hold, each shared page counted once."""
    root = psutil.Process(server.process.pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


@contextmanager
def peak_of(server: LiveServer):
    """Watch a server; the list has the most bytes above idle when the block has ended."""
    idle, seen, ended = held_bytes(server), [0], threading.Event()

    def watch():
        while not ended.wait(0.1):
            seen.append(held_bytes(server) - idle)

    watcher = threading.Thread(target=watch)
    watcher.start()
    peak: list[int] = []
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
        peak.append(max(seen))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def test_a_file_of_the_largest_size_takes_little_memory(server, tmp_path):
    rows = chat_rows(2000) + b"\n"
    path = tmp_path / "train.jsonl"
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // len(rows)):
            file.write(rows)
    client = server.client.with_options(timeout=3000, max_retries=0)
    with peak_of(server) as peak:
        stored = client.files.create(file=path, purpose="fine-tune")
    assert (stored.bytes, stored.status) == (path.stat().st_size, "processed")
    client.files.delete(stored.id)
    say(f"{stored.bytes / MB:.0f} MB at once: {peak[0] / MB:.0f} MB above idle")
    assert peak[0] < MOST_ABOVE_IDLE_BYTES


def test_a_file_in_parts_takes_little_memory(server, tmp_path):
    path = tmp_path / "big.bin"
    with path.open("wb") as file:
        file.truncate(IN_PARTS_BYTES)
    client = server.client.with_options(timeout=3000, max_retries=0)
    with peak_of(server) as peak:
        upload = client.uploads.upload_file_chunked(
            file=path,
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=PART_BYTES,
            md5=md5_of(path),
        )
    assert (upload.status, upload.file.bytes) == ("completed", IN_PARTS_BYTES)
    client.files.delete(upload.file.id)
    say(f"{IN_PARTS_BYTES / MB:.0f} MB in parts: {peak[0] / MB:.0f} MB above idle")
    assert peak[0] < MOST_ABOVE_IDLE_BYTES


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
