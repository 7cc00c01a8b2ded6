"""Small training files of each kind, for the scripts and for the suite itself."""

from __future__ import annotations

import json


def chat_rows(count: int = 12) -> bytes:
    """Return a file of conversations."""
    return _lines(
        {
            "messages": [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": f"Say {number}"},
                {"role": "assistant", "content": f"{number}!"},
            ]
        }
        for number in range(count)
    )


def preference_rows(count: int = 12) -> bytes:
    """Return a file of pairs of answers."""
    return _lines(
        {
            "input": {"messages": [{"role": "user", "content": f"Say {number}"}]},
            "preferred_output": [{"role": "assistant", "content": f"{number}!"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for number in range(count)
    )


def pair_rows(count: int = 12) -> bytes:
    """Return a file of prompts and completions, the oldest form."""
    return _lines(
        {"prompt": f"{number} ->", "completion": f" {number}\n"} for number in range(count)
    )


def batch_lines(model: str, count: int = 3) -> bytes:
    """Return a file of chat requests."""
    return _lines(
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": model,
                "messages": [{"role": "user", "content": f"Say {number}"}],
                "max_tokens": 8,
            },
        }
        for number in range(count)
    )


def _lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
