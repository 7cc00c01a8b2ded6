"""What the scripts for openai 0.28.1 share: module-level classes, and ``a...`` for async."""

from __future__ import annotations

import io
import time
from typing import Any

import openai
from rows import chat_rows
from scenarios import TERMINAL, Run

USER = [{"role": "user", "content": "Say 3"}]


def begin(run: Run) -> None:
    """Tell the library where the server is."""
    openai.api_base = run.base_url
    openai.api_key = run.api_key


def is_absent(error: Exception) -> bool:
    """Tell whether the server has no such endpoint."""
    return getattr(error, "code", None) in {"unknown_url", "method_not_allowed"}


def named(name: str, content: bytes) -> io.BytesIO:
    """Return a file in memory; this library takes its name from the object."""
    file = io.BytesIO(content)
    file.name = name
    return file


def new_file(content: bytes | None = None, **options: Any) -> Any:
    """Upload a training file."""
    file = named("train.jsonl", chat_rows() if content is None else content)
    return openai.File.create(file=file, purpose="fine-tune", **options)


def failure(kind: type[Exception], call: Any) -> Any:
    """Return the error of a call that must raise ``kind``."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def wait_for(run: Run, read: Any) -> Any:
    """Return what ``read`` returns once it has ended."""
    deadline = time.monotonic() + run.job_seconds
    found = read()
    while found.status not in TERMINAL:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        found = read()
    return found
