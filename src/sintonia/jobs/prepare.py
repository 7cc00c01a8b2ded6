"""Prepares a job: copies its files, checks every row, ends ``auto``, writes ``spec.json``.

Invariant: all of it can be done again. Until ``spec.json`` is written and the job is admitted
to the queue, nothing depends on what a preparation that was cut short left in the run folder.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sintonia.bases.library import BaseModel
from sintonia.data.renderer import Renderer
from sintonia.data.validate import validate, with_method
from sintonia.domain.choices import Learn
from sintonia.domain.datasets import MIN_EXAMPLES, DatasetReport
from sintonia.domain.jobs import EventLevel, JobError
from sintonia.domain.models import Model, tuned_name
from sintonia.errors import (
    DamagedCheckpoint,
    DownloadFailed,
    FileNotFound,
    InvalidData,
    ModelNotAvailable,
    ModelNotFound,
    ServerError,
)
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.continued import lora_of
from sintonia.jobs.overlap import count_shared_rows
from sintonia.runs.layout import RunFolder
from sintonia.runs.plan import (
    BaseNumbers,
    PlanRequest,
    RunSettings,
    check_targets,
    linear_layers,
    plan,
)
from sintonia.runs.shown import resolved_of
from sintonia.runs.spec import AdapterRef, DataRef, LoraSettings, TrainSpec
from sintonia.sealed import MANIFEST, hash_file, sync_folder, verify
from sintonia.store import Claim
from sintonia.store.claims import Admission

TRAINING, VALIDATION = "training_file", "validation_file"
PROBLEMS_IN_ERROR = 3
"""A job's error tells so many problems of a file; its events tell the others."""


class NotYet(Exception):
    """The job has to wait for something; it goes back to be claimed again."""


@dataclass(frozen=True)
class _Start:
    """What training starts from."""

    base: BaseModel
    folder: Path
    """Where tokenizer and template are read: the base's, or the copy of the parent's."""
    parent: AdapterRef | None = None
    lora: LoraSettings | None = None


@dataclass(frozen=True)
class _Data:
    """One file of the job, copied and checked."""

    ref: DataRef
    report: DatasetReport
    path: Path


def prepare_job(context: WorkerContext, claim: Claim) -> None:
    """Lead a claimed job from ``validating_files`` to ``queued`` or ``failed``.

    Raises ``NotYet`` while its base model is being fetched, and ``ClaimLost``.
    """
    queue, draft = context.store.queue, claim.job.draft
    validation = f" and validation file: {draft.validation_file}" if draft.validation_file else ""
    queue.note(claim, f"Validating training file: {draft.training_file}{validation}")
    run = context.run_folder(claim.job.id)
    run.data.mkdir(parents=True, exist_ok=True)
    start = _find_start(context, claim, run)
    learns_last_only = draft.method.choices.learn is Learn.LAST
    renderer = Renderer.from_folder(start.folder, learns_last_only=learns_last_only)
    checked = _check_files(context, claim, run, renderer)
    field = _first_invalid(checked)
    if field is not None:
        report = checked[field].report
        details = report.listing() if report.num_problems > 1 else ()
        queue.fail(claim, _problem_of(field, report), details)
        return
    _warn(context, claim, checked)
    spec = plan(_plan_request(context, claim, start, renderer, checked))
    spec.write(run.spec)
    queue.admit(claim, _admission(context, claim, spec))


def _find_start(context: WorkerContext, claim: Claim, run: RunFolder) -> _Start:
    """Find the weights that training starts from.

    Raises ``NotYet``, ``DownloadFailed``, ``ModelNotAvailable``.
    """
    draft = claim.job.draft
    if draft.parent_model is None:
        base = _find_base(context, claim, draft.base_model)
        return _Start(base, Path(base.ref.folder))
    try:
        parent = context.store.models.get(draft.parent_model)
    except ModelNotFound:
        raise ModelNotAvailable(
            f"Model {draft.parent_model} does not exist any more. Start from another model.",
            param="model",
        ) from None
    if parent.adapter_sha256 is None:
        return _start_from_whole(context, parent)
    held = context.library.holding(parent.base)
    base = held or _find_base(context, claim, parent.base.name)
    if base.ref.sha256 != parent.base.sha256:
        raise ModelNotAvailable(
            f"Model {parent.name} was tuned over another {parent.base.name} than the one that is "
            "installed. Install the one it was tuned over.",
            param="model",
        )
    folder = _copy_parent(parent, run)
    adapter = AdapterRef(parent.name, str(folder), parent.adapter_sha256 or "")
    return _Start(base, folder, adapter, lora_of(folder, parent.name))


def _start_from_whole(context: WorkerContext, parent: Model) -> _Start:
    """Start from a model whose every weight was tuned: it is the base now."""
    base = context.library.holding(parent.base)
    if base is None:
        raise ModelNotAvailable(
            f"Model {parent.name}: its weights are gone from the server's disk, or others now. "
            "Bring them back from a backup, or start from another model.",
            param="model",
        )
    itself = AdapterRef(parent.name, base.ref.folder, base.ref.sha256)
    return _Start(base, Path(base.ref.folder), itself)


def _find_base(context: WorkerContext, claim: Claim, name: str) -> BaseModel:
    library = context.library
    found = library.find(name)
    if found is not None:
        return found
    if not library.knows(name):
        raise ModelNotAvailable(
            f"Model {name} is not available for fine-tuning or does not exist.", param="model"
        )
    is_first_look = context.store.queue.note(claim, f"Fetching base model: {name}")
    if is_first_look:
        library.forget_problem(name)  # an earlier job's; this one may have more luck
    problem = library.fetch_problem(name)
    if problem is not None:
        raise DownloadFailed(problem)
    library.start_fetch(name)
    raise NotYet


def _copy_parent(parent: Model, run: RunFolder) -> Path:
    """Copy a tuned model into the run, which then outlives the model's deletion."""
    assert parent.folder is not None, "a tuned model has a folder"
    folder = run.path / "parent"
    shutil.rmtree(folder, ignore_errors=True)
    if not Path(parent.folder).is_dir():
        raise ModelNotAvailable(
            f"Model {parent.name}: its folder is gone from the server's disk. "
            "Bring it back from a backup, or start from another model.",
            param="model",
        )
    shutil.copytree(parent.folder, folder)
    verify(folder)
    if hash_file(folder / MANIFEST) != parent.adapter_sha256:
        raise DamagedCheckpoint(f"Model {parent.name}: its folder is not the one that was stored.")
    return folder


def _check_files(
    context: WorkerContext, claim: Claim, run: RunFolder, renderer: Renderer
) -> dict[str, _Data]:
    """Copy and check the job's files, by the name of the field that gives them."""
    draft = claim.job.draft
    wanted = {TRAINING: (draft.training_file, "train.jsonl", MIN_EXAMPLES)}
    if draft.validation_file is not None:
        wanted[VALIDATION] = (draft.validation_file, "valid.jsonl", 1)
    checked = {}
    for field, (file_id, name, min_examples) in wanted.items():
        path = run.data / name
        _copy_file(context, file_id, path, field)
        called = field.replace("_", " ").capitalize()
        report = validate(
            path,
            renderer=renderer,
            truncate=draft.truncate,
            min_examples=min_examples,
            called=called,
        )
        report = with_method(report, draft.method.type, file_id)
        # Relative to the run's folder, so that the folder can be moved.
        ref = DataRef(f"data/{name}", report.sha256, report.num_examples, file_id)
        checked[field] = _Data(ref, report, path)
    return checked


def _copy_file(context: WorkerContext, file_id: str, path: Path, field: str) -> None:
    try:
        file = context.store.files.get(file_id)
        context.store.files.copy_to(file_id, path)
    except FileNotFound:
        what = field.replace("_", " ")
        raise InvalidData(
            f"The job failed due to an invalid {what}. File {file_id} was deleted. "
            "Upload it again and make a new job.",
            param=field,
            code=f"invalid_{field}",
        ) from None
    sync_folder(path.parent)
    if hash_file(path) != file.sha256:
        raise ServerError(
            f"File {file_id}: its content is not what was uploaded. Upload it again.", param=field
        )


def _first_invalid(checked: dict[str, _Data]) -> str | None:
    return next((field for field, data in checked.items() if not data.report.is_valid), None)


def _problem_of(field: str, report: DatasetReport) -> JobError:
    """Return the error of a file that cannot be used: the first problems, and all counted."""
    is_short_only = report.num_problems == 1 and report.num_examples < MIN_EXAMPLES
    if field == TRAINING and is_short_only and report.problems[0].line is None:
        return JobError("invalid_n_examples", report.problems[0].message, field)
    what = field.replace("_", " ")
    message = f"The job failed due to an invalid {what}. {report.summary(PROBLEMS_IN_ERROR)}"
    if report.num_problems > PROBLEMS_IN_ERROR:
        message += ". The job's events name them one by one."
    return JobError(f"invalid_{field}", message, field)


def _warn(context: WorkerContext, claim: Claim, checked: dict[str, _Data]) -> None:
    warnings = [text for data in checked.values() for text in data.report.warnings]
    if VALIDATION in checked:
        num_shared = count_shared_rows(checked[TRAINING].path, checked[VALIDATION].path)
        if num_shared:
            warnings.append(
                f"The validation file shares {num_shared} of its "
                f"{checked[VALIDATION].report.num_examples} examples with the training file: "
                "the validation loss will look better than it is."
            )
    for text in warnings:
        context.store.queue.note(claim, text, EventLevel.WARN)


def _plan_request(
    context: WorkerContext,
    claim: Claim,
    start: _Start,
    renderer: Renderer,
    checked: dict[str, _Data],
) -> PlanRequest:
    base, settings = start.base, context.settings
    check_targets(claim.job.draft.method.choices, Path(base.ref.folder))
    numbers = BaseNumbers(
        ref=base.ref,
        learning_rate=base.learning_rate,
        context_tokens=base.facts.context_tokens,
        template_sha256=renderer.template_sha256,
        lora_targets=linear_layers(Path(base.ref.folder)),
    )
    return PlanRequest(
        run_id=claim.job.id,
        method=claim.job.draft.method,
        base=numbers,
        training=checked[TRAINING].ref,
        seed=claim.job.seed,
        validation=checked[VALIDATION].ref if VALIDATION in checked else None,
        parent=start.parent,
        parent_lora=start.lora,
        truncate=claim.job.draft.truncate,
        settings=RunSettings(
            snapshot_seconds=settings.snapshot_seconds,
            threads=settings.threads,
            cache_folder=str(settings.home / "cache" / "samples"),
        ),
    )


def _admission(context: WorkerContext, claim: Claim, spec: TrainSpec) -> Admission:
    draft = claim.job.draft
    name = tuned_name(draft.model, context.settings.organization, draft.suffix)
    return Admission(
        resolved=resolved_of(spec),
        origins=dict(spec.origins),
        tuned_name=name,
    )
