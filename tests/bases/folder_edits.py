"""Changing the files of a folder that a test takes in."""

from __future__ import annotations

import json
from pathlib import Path


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
