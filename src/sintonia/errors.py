"""Every error that Sintonia raises on purpose, in one tree.

::

    SintoniaError
    ├── InvalidRequest                 400   the caller can mend it
    │   ├── InvalidValue                     a field has a value that is not allowed
    │   ├── UnknownParameter                 a field that nobody knows
    │   ├── UnsupportedParameter             a field that this model or build cannot honour
    │   ├── UnsupportedValue                 a field that it can honour with other values
    │   ├── ModelNotAvailable                the base cannot be fine-tuned or is not there
    │   ├── ContextLengthExceeded            more tokens than the model can read
    │   ├── InvalidData                      a data file with problems (all of them inside)
    │   └── RefusedModel                     a model folder that is unsafe or incomplete
    ├── PermissionDenied               403   known, and not the caller's to do
    ├── NotFound                       404
    │   ├── FileNotFound · UploadNotFound · JobNotFound · BatchNotFound
    │   ├── ModelNotFound · DeploymentNotFound
    │   ├── CompletionNotFound · PermissionNotFound
    ├── PayloadTooLarge                413
    ├── TooManyRequests                429   the queue is full
    ├── Unavailable                    503   try again: carries ``retry_after_seconds``
    │   ├── ModelNotReady                    its weights are being fetched
    │   └── EngineUnavailable                the engine process is starting or restarting
    ├── InsufficientStorage            507   the disk is full
    ├── ServerError                    500   ours
    │   ├── DownloadFailed · CorruptDownload
    │   ├── DamagedCheckpoint                a manifest that does not match its files
    │   └── TrainerFailed                    the training process ended badly
    ├── AlreadyRunning                       one server per home; one trainer per run
    ├── PortInUse
    ├── SettingInvalid                       a setting that cannot be understood
    ├── ServerUnreachable                    no server answers at an address
    └── RemoteError                          what a server answered, as its client saw it

A message says what is wrong, where, what is allowed and what to do. It never holds a stack,
an object's address or a path that the caller did not give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar


class SintoniaError(Exception):
    """Base of all errors raised on purpose.

    ``status``, ``type`` and ``code`` are what OpenAI's envelope shows; ``param`` names the
    request field at fault, when there is one.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code


class InvalidRequest(SintoniaError):
    """The caller asked for something that cannot be done as asked."""

    status = 400
    type = "invalid_request_error"


def all_of(problems: Sequence[InvalidRequest]) -> InvalidRequest:
    """Return the first of ``problems`` with the messages of all, each once."""
    first = problems[0]
    message = " ".join(dict.fromkeys(problem.message for problem in problems))
    return type(first)(message, param=first.param, code=first.code)


class Problems:
    """Everything that is wrong with what a caller asked for, so that it is told at once."""

    def __init__(self, found: Iterable[InvalidRequest] = ()) -> None:
        self.found = list(found)

    def __bool__(self) -> bool:
        return bool(self.found)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add what is raised that the caller can mend, and go on behind the block."""
        try:
            yield
        except InvalidRequest as problem:
            self.found.append(problem)

    def raise_if_any(self) -> None:
        """Raise the first with the messages of all."""
        if self.found:
            raise all_of(self.found)


class InvalidValue(InvalidRequest):
    """A field has a value that is not allowed."""

    default_code = "invalid_value"


class UnknownParameter(InvalidRequest):
    """A field that nobody knows; ignoring it would hide a mistake."""

    default_code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """A field that is known but that this model or build cannot honour."""

    default_code = "unsupported_parameter"


class UnsupportedValue(InvalidRequest):
    """A field that this model or build can honour, with a value that it cannot."""

    default_code = "unsupported_value"


class ModelNotAvailable(InvalidRequest):
    """A base model that cannot be fine-tuned here or does not exist."""

    default_code = "model_not_available"


class ContextLengthExceeded(InvalidRequest):
    """More tokens than the model can read."""

    default_code = "context_length_exceeded"


class InvalidData(InvalidRequest):
    """A data file with problems; ``code`` says which file of the job is meant."""

    default_code = "invalid_training_file"


class RefusedModel(InvalidRequest):
    """A model folder that is unsafe (it wants code to run) or incomplete."""

    default_code = "model_refused"


class PermissionDenied(SintoniaError):
    """What is asked for is understood and not the caller's to do."""

    status = 403
    type = "invalid_request_error"


class NotFound(SintoniaError):
    """The thing that an id names does not exist."""

    status = 404
    type = "invalid_request_error"


class FileNotFound(NotFound):
    """No file has this id."""

    def __init__(self, file_id: str, *, param: str | None = "id") -> None:
        super().__init__(f"No such File object: {file_id}", param=param)


class UploadNotFound(NotFound):
    """No upload has this id."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {upload_id}", param="upload_id")


class JobNotFound(NotFound):
    """No fine-tuning job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {job_id}", param="fine_tuning_job_id")


class BatchNotFound(NotFound):
    """No batch has this id."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch found with id '{batch_id}'.", param="batch_id")


class ModelNotFound(NotFound):
    """No model has this name."""

    default_code = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model `{name}` does not exist or you do not have access to it.", param="model"
        )


class CompletionNotFound(NotFound):
    """No stored chat completion has this id."""

    def __init__(self, completion_id: str) -> None:
        super().__init__(
            f"No stored chat completion: {completion_id}. Only those that were made with "
            "store=true are kept, and for a limited time.",
            param="completion_id",
        )


class PermissionNotFound(NotFound):
    """No permission of the model has this id."""

    def __init__(self, permission_id: str, model: str) -> None:
        super().__init__(
            f"No permission {permission_id} of model {model}. List its permissions for their ids.",
            param="permission_id",
        )


class DeploymentNotFound(NotFound):
    """Azure's name for a model leads nowhere: it was never given, or its ``model`` is gone."""

    default_code = "DeploymentNotFound"

    def __init__(self, name: str, *, model: str | None = None) -> None:
        message = (
            f"The API deployment {name!r} for this resource does not exist. Create it, or use the "
            "name of a model that GET /openai/models lists."
            if model is None
            else f"Deployment {name!r}: its model {model!r} does not exist any more. Deploy "
            "another model under this name, or delete the deployment."
        )
        super().__init__(message, param="model")


class PayloadTooLarge(SintoniaError):
    """A body over the size limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "file_too_large"


class TooManyRequests(SintoniaError):
    """The engine's queue is full; the request was not started."""

    status = 429
    type = "requests"
    default_code = "rate_limit_exceeded"
    retry_after_seconds = 1


class Unavailable(SintoniaError):
    """Not now; the same request may succeed after ``retry_after_seconds``."""

    status = 503
    type = "server_error"
    default_code = "overloaded"

    def __init__(self, message: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ModelNotReady(Unavailable):
    """The weights of the model are still being fetched."""

    default_code = "model_not_ready"


class EngineUnavailable(Unavailable):
    """The engine process is starting or restarting."""

    default_code = "engine_unavailable"


class InsufficientStorage(SintoniaError):
    """The disk is full; nothing was stored."""

    status = 507
    default_code = "insufficient_storage"


class ServerError(SintoniaError):
    """A fault of ours or of the machine, not of the caller."""


class DownloadFailed(ServerError):
    """A model could not be fetched."""

    default_code = "download_failed"


class CorruptDownload(DownloadFailed):
    """What was fetched is not what its checksum promises; it was thrown away."""


class DamagedCheckpoint(ServerError):
    """A checkpoint whose files do not match its manifest."""

    default_code = "damaged_checkpoint"


class TrainerFailed(ServerError):
    """The training process ended badly; the message holds why."""

    default_code = "server_error"


class AlreadyRunning(SintoniaError):
    """Another process owns this home or this run."""


class PortInUse(SintoniaError):
    """Another program listens on the port."""


class SettingInvalid(SintoniaError):
    """A setting in the environment or in ``sintonia.toml`` that cannot be understood."""


class ServerUnreachable(SintoniaError):
    """No server answers where one should be, or it could not be started."""


class RemoteError(SintoniaError):
    """An error that a server answered; ``http_status`` and the envelope's fields are its own."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds
