"""Batches: wire to draft, facts to wire, and the lines of their files of answers."""

from __future__ import annotations

from typing import Any

from sintonia import ids
from sintonia.api.schemas.batches import (
    BatchCounts,
    BatchErrorObject,
    BatchErrors,
    BatchObject,
    BatchRequest,
    BatchUsage,
    InputDetails,
    OutputDetails,
)
from sintonia.domain.batches import Batch, BatchDraft, BatchStatus, BatchTally

Record = dict[str, Any]
"""A line of a file of answers: ``id``, ``custom_id``, ``response``, ``error``."""

EXPIRED = "batch_expired"
CANCELLED = "batch_cancelled"
_WHY_NOT = {
    EXPIRED: "This request could not be executed before the completion window expired.",
    CANCELLED: "The batch was cancelled before this request was executed.",
}


def draft_of(request: BatchRequest) -> BatchDraft:
    """Return what was asked for."""
    expiry = request.output_expires_after
    return BatchDraft(
        input_file_id=request.input_file_id,
        endpoint=request.endpoint,
        completion_window=request.completion_window,
        metadata=request.metadata,
        output_seconds=None if expiry is None else expiry.seconds,
    )


def batch_object(batch: Batch) -> BatchObject:
    """Return a batch as the wire shows it."""
    draft, at = batch.draft, batch.entered_at
    return BatchObject(
        id=batch.id,
        endpoint=draft.endpoint,
        model=batch.model,
        errors=_errors(batch),
        input_file_id=draft.input_file_id,
        completion_window=draft.completion_window,
        status=batch.status.value,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=at.get(BatchStatus.IN_PROGRESS),
        expires_at=batch.expires_at,
        finalizing_at=at.get(BatchStatus.FINALIZING),
        completed_at=at.get(BatchStatus.COMPLETED),
        failed_at=at.get(BatchStatus.FAILED),
        expired_at=at.get(BatchStatus.EXPIRED),
        cancelling_at=at.get(BatchStatus.CANCELLING),
        cancelled_at=at.get(BatchStatus.CANCELLED),
        request_counts=BatchCounts(
            total=batch.num_requests, completed=batch.tally.completed, failed=batch.tally.failed
        ),
        usage=_usage(batch.tally),
        metadata=draft.metadata,
    )


def answered(custom_id: str, status_code: int, body: Any) -> Record:
    """Return the record of a request that got an answer over HTTP, a good one or an error."""
    response = {"status_code": status_code, "request_id": ids.new_request_id(), "body": body}
    return _record(custom_id, response, None)


def not_answered(custom_id: str, code: str) -> Record:
    """Return the record of a request that was never made: ``EXPIRED`` or ``CANCELLED``."""
    return _record(custom_id, None, {"code": code, "message": _WHY_NOT[code]})


def is_answer(record: Record) -> bool:
    """Tell whether a record belongs into the output file; else it does into the error file."""
    response = record["response"]
    return response is not None and response["status_code"] == 200


def has_expired(record: Record) -> bool:
    """Tell whether the end of the window came before the request was made."""
    error = record["error"]
    return error is not None and error["code"] == EXPIRED


def tally_of(record: Record) -> BatchTally:
    """Return what a record adds to the counts."""
    if not is_answer(record):
        return BatchTally(failed=1)
    usage = record["response"]["body"]["usage"]
    return BatchTally(
        completed=1,
        input_tokens=usage["prompt_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        output_tokens=usage["completion_tokens"],
        reasoning_tokens=usage["completion_tokens_details"]["reasoning_tokens"],
    )


def _record(custom_id: str, response: Any, error: Any) -> Record:
    return {
        "id": ids.new_id(ids.BATCH_REQUEST),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


def _errors(batch: Batch) -> BatchErrors | None:
    if not batch.problems:
        return None
    return BatchErrors(
        data=[
            BatchErrorObject(code=p.code, message=p.message, param=p.param, line=p.line)
            for p in batch.problems
        ]
    )


def _usage(tally: BatchTally) -> BatchUsage:
    return BatchUsage(
        input_tokens=tally.input_tokens,
        input_tokens_details=InputDetails(cached_tokens=tally.cached_tokens),
        output_tokens=tally.output_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=tally.reasoning_tokens),
        total_tokens=tally.input_tokens + tally.output_tokens,
    )
