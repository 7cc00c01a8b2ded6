"""Jobs that were brought over: what their server said, to wire."""

from __future__ import annotations

from sintonia.api.schemas.jobs import ImportedJobObject, ImportedLine
from sintonia.domain.imported import ImportedJob, Json
from sintonia.errors import InvalidRequest


def imported_job_object(job: ImportedJob) -> ImportedJobObject:
    """Return an imported job as the wire shows it."""
    own = job.object.get("sintonia")
    extension = {**(own if isinstance(own, dict) else {}), "imported_from": job.source}
    return ImportedJobObject.model_validate({**job.object, "sintonia": extension})


def imported_line(line: Json) -> ImportedLine:
    """Return an event or a checkpoint as it came."""
    return ImportedLine.model_validate(line)


def cannot_change(job: ImportedJob, done: str) -> InvalidRequest:
    """Return the error for an order to an imported job; ``done`` is a participle."""
    return InvalidRequest(
        f"Job {job.id} was brought over from {job.source}: it is a record here and never runs, "
        f"so it cannot be {done}. `sintonia migrate rerun {job.id}` makes a job of it that runs.",
        param="fine_tuning_job_id",
    )
