"""Batches on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from sintonia.api.schemas.jobs import Metadata
from sintonia.api.schemas.wire import StrictRequest, Wire

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
"""What a batch can ask."""


class OutputExpiry(StrictRequest):
    """When the files of answers go: so long after they were made."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2592000)


class BatchRequest(StrictRequest):
    """Parameters of ``POST /v1/batches``."""

    input_file_id: str = Field(min_length=1, max_length=100)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None


class BatchErrorObject(Wire):
    """One thing wrong with the input."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(Wire):
    """Why a batch failed."""

    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class BatchCounts(Wire):
    """What became of the requests."""

    total: int
    completed: int
    failed: int


class InputDetails(Wire):
    """Details of the tokens that were read."""

    cached_tokens: int


class OutputDetails(Wire):
    """Details of the tokens that were made."""

    reasoning_tokens: int


class BatchUsage(Wire):
    """How many tokens all answers took."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(Wire):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: Mapping[str, str] | None
