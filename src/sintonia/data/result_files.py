"""Result files as other servers give them: plain CSV, or the same in base64.

OpenAI has sent them in base64 for a time. What was brought over stays as it came; whoever reads
it gets plain CSV.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import BinaryIO

_BEGINNING = b"step,"
"""Of every result file."""
_HEAD_BYTES = 64


def is_encoded(file: BinaryIO) -> bool:
    """Tell whether an open result file is base64 of CSV; it is read from its start again."""
    head = _without_spaces(file.read(_HEAD_BYTES))
    file.seek(0)
    try:
        beginning = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return beginning.startswith(_BEGINNING)


def decoded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what base64 stands for; line breaks in it mean nothing."""
    rest = b""
    for chunk in chunks:
        rest += _without_spaces(chunk)
        whole = len(rest) // 4 * 4
        yield base64.b64decode(rest[:whole])
        rest = rest[whole:]
    if rest:  # its padding was left out
        yield base64.b64decode(rest + b"=" * (-len(rest) % 4))


def _without_spaces(text: bytes) -> bytes:
    return bytes(text.translate(None, b" \t\r\n"))
