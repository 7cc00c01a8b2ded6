"""Identifiers in OpenAI's form. Every id of the product is made here."""

from __future__ import annotations

import re
import secrets
import string
import time

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

FILE = "file-"
JOB = "ftjob-"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt_"
CHAT_COMPLETION = "chatcmpl-"
COMPLETION = "cmpl-"
REQUEST = "req_"
UPLOAD = "upload_"
UPLOAD_PART = "part_"
TOOL_CALL = "call_"
BATCH = "batch_"
BATCH_REQUEST = "batch_req_"
DEPLOYMENT = "deployment-"
LEGACY_JOB = "ft-"
"""The same job as ``JOB`` for clients of the API before it; the rest of the id is the same."""

ID_PATTERN = re.compile(r"^(file-|ftjob-|ftevent-|ftckpt_)[A-Za-z0-9]{24}$")


def new_id(prefix: str) -> str:
    """Return ``prefix`` and 24 random letters and digits (142 bits)."""
    return prefix + "".join(secrets.choice(BASE62) for _ in range(24))


def new_request_id() -> str:
    """Return the id of a request, as OpenAI writes it: ``req_`` and 32 hexadecimal digits."""
    return REQUEST + secrets.token_hex(16)


def new_model_suffix() -> str:
    """Return 8 base-62 characters that sort by time: six of the second, two random."""
    return _base62(int(time.time()), width=6) + "".join(secrets.choice(BASE62) for _ in range(2))


def is_id(text: str) -> bool:
    """Tell whether ``text`` has the form of an id made here (safe as a file name)."""
    return ID_PATTERN.fullmatch(text) is not None


def _base62(number: int, *, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits = BASE62[rest] + digits
    return digits
