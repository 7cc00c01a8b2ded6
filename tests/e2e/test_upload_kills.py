"""SIGKILL while a file arrives in parts: a client that tries again gets its file, and only it."""

from __future__ import annotations

import hashlib

import pytest
from live import LiveServer, chat_rows, home_with_tiny

from sintonia import failpoints, settings
from sintonia.store import Store

AT = {"upload.part": 2, "file.write": 3}
"""At which time a point is reached the process dies; the first where not named."""
POINTS = [name for name in failpoints.NAMES if name.startswith("upload.")]


@pytest.mark.parametrize("point", [*POINTS, "file.write", "file.rename"])
def test_a_kill_while_a_file_arrives_in_parts_loses_nothing(point, tiny_home, tmp_path):
    home, marker = home_with_tiny(tiny_home, tmp_path / "home"), tmp_path / "marker"
    failpoint = f"{point}@{AT.get(point, 1)}:{marker}"
    environment = {"SINTONIA_ENGINE": "echo", "SINTONIA_FAILPOINT": failpoint}
    server, content = LiveServer(home, environment).start(), chat_rows(40)
    try:
        upload = server.client.uploads.upload_file_chunked(
            file=content,
            filename="train.jsonl",
            bytes=len(content),
            mime_type="text/jsonl",
            purpose="fine-tune",
            part_size=len(content) // 3 + 1,
            md5=hashlib.md5(content).hexdigest(),
        )
        assert marker.exists(), f"{point} was never reached"
        assert (upload.status, upload.file.status) == ("completed", "processed")
        assert [file.id for file in server.client.files.list()] == [upload.file.id]
        assert server.client.files.content(upload.file.id).content == content
    finally:
        server.stop()
    assert_only(home, upload.file.id)


def assert_only(home, file_id: str) -> None:
    """What the crash left belongs to nobody and is swept, and nothing else is."""
    store = Store.open(settings.load({}, home=home))
    store.files.sweep(older_than_seconds=0)
    store.close()
    assert [path.name for path in (home / "files").iterdir()] == [file_id]
