"""Prepares a job: copies its files, checks every row, ends ``auto``, writes ``spec.json``.

Invariant: all of it can be done again. Until ``spec.json`` is written and the job is admitted
to the queue, nothing depends on what a preparation that was cut short left in the run folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sintonia.bases.library import BaseModel
from sintonia.data.renderer import Renderer
from sintonia.domain.choices import Learn
from sintonia.domain.jobs import EventLevel
from sintonia.domain.models import Model, tuned_name
from sintonia.errors import (
    DamagedCheckpoint,
    DownloadFailed,
    ModelNotAvailable,
    ModelNotFound,
)
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.continued import lora_of
from sintonia.jobs.data_files import TRAINING, VALIDATION, Data, DataFiles, warnings_of
from sintonia.jobs.refusals import Refusals
from sintonia.runs.layout import RunFolder
from sintonia.runs.plan import BaseNumbers, PlanRequest, RunSettings, linear_layers, plan
from sintonia.runs.shown import resolved_of
from sintonia.runs.spec import AdapterRef, LoraSettings, TrainSpec
from sintonia.sealed import MANIFEST, hash_file, verify
from sintonia.store import Claim
from sintonia.store.claims import Admission


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


def prepare_job(context: WorkerContext, claim: Claim) -> None:
    """Lead a claimed job from ``validating_files`` to ``queued`` or ``failed``.

    Raises ``NotYet`` while its base model is being fetched, and ``ClaimLost``.
    """
    queue, draft = context.store.queue, claim.job.draft
    validation = f" and validation file: {draft.validation_file}" if draft.validation_file else ""
    queue.note(claim, f"Validating training file: {draft.training_file}{validation}")
    run = context.run_folder(claim.job.id)
    run.path.mkdir(parents=True, exist_ok=True)
    refusals, start, spec = Refusals(), None, None
    with refusals.collecting():
        start = _find_start(context, claim, run)
    start = start or _base_alone(context, claim)  # which the rest can be checked against
    renderer = _renderer_of(start, claim)
    checked = DataFiles(context, draft, run, renderer).check(refusals)
    if start and renderer and TRAINING in checked:
        with refusals.collecting():
            spec = plan(_plan_request(context, claim, start, renderer, checked))
    if refusals:
        queue.fail(claim, refusals.error(), refusals.details)
        return
    assert spec is not None, "without a refusal there is a plan"
    for text in warnings_of(checked):
        queue.note(claim, text, EventLevel.WARN)
    spec.write(run.spec)
    queue.admit(claim, _admission(context, claim, spec))


def _renderer_of(start: _Start | None, claim: Claim) -> Renderer | None:
    if start is None:
        return None
    learns_last_only = claim.job.draft.method.choices.learn is Learn.LAST
    return Renderer.from_folder(start.folder, learns_last_only=learns_last_only)


def _base_alone(context: WorkerContext, claim: Claim) -> _Start | None:
    """Return the job's base model, if it is here, without the model that cannot be gone on from."""
    base = context.library.find(claim.job.draft.base_model)
    return _Start(base, Path(base.ref.folder)) if base else None


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


def _plan_request(
    context: WorkerContext,
    claim: Claim,
    start: _Start,
    renderer: Renderer,
    checked: Mapping[str, Data],
) -> PlanRequest:
    base, settings = start.base, context.settings
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
            cache_folder=str(settings.samples_folder),
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
