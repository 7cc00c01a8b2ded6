"""Turns a finished run into models that can be served, a result file and a succeeded job.

Invariant: everything before the last transaction can be done again; the last transaction makes
all of it visible at once.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintonia import failpoints
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.domain.models import BaseRef, Model, ModelKind, checkpoint_name
from sintonia.errors import DamagedCheckpoint
from sintonia.jobs.context import WorkerContext
from sintonia.runs.layout import step_folder_name
from sintonia.runs.records import ExitRecord
from sintonia.runs.spec import TrainSpec, read_spec
from sintonia.sealed import MANIFEST, hash_file, seal, verify
from sintonia.store import Claim
from sintonia.store.claims import Settlement

RESULT_NAME = "step_metrics.csv"
RESULT_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""OpenAI's columns of the result file and the metric behind each."""
REWARD_COLUMNS = tuple(
    f"{rows}_reward_{measure}"
    for rows in ("train", "valid")
    for measure in ("accuracy", "margin", "chosen", "rejected")
)
"""Further columns of a job that learned preferences, named as their metrics."""
MAX_CHECKPOINTS = 1000

_log = logging.getLogger(__name__)


def settle(context: WorkerContext, claim: Claim, ended: ExitRecord) -> None:
    """Let a job whose trainer succeeded succeed.

    Raises ``DamagedCheckpoint`` when the final adapter is not what it was sealed as, and
    ``ClaimLost``.
    """
    assert ended.model_folder is not None, "a trainer that succeeds names its result"
    maker = _ModelMaker(context, claim, read_spec(context.run_folder(claim.job.id).spec))
    model = maker.tuned(context.run_folder(claim.job.id).path / ended.model_folder)
    failpoints.reach("settle.model")
    checkpoints = maker.checkpoints()
    results = _stage_results(context, claim, ended)
    failpoints.reach("settle.result")
    settlement = Settlement(
        model=model,
        checkpoints=checkpoints,
        result_files=results,
        trained_tokens=ended.trained_tokens,
    )
    context.store.queue.settle(claim, settlement)


def _stage_results(
    context: WorkerContext, claim: Claim, ended: ExitRecord
) -> tuple[StoredFile, ...]:
    """Store the bytes of the result files: the steps, as OpenAI has them, and the rows."""
    stage, purpose = context.store.files.stage, FilePurpose.FINE_TUNE_RESULTS
    table = result_table(context.store.jobs.metrics(claim.job.id))
    staged = [stage(RESULT_NAME, purpose, [table])]
    if ended.row_losses is not None:
        path = context.run_folder(claim.job.id).path / ended.row_losses
        with path.open("rb") as file:
            staged.append(stage(path.name, purpose, file))
    return tuple(staged)


def checkpoint_model(context: WorkerContext, claim: Claim, step: int) -> Model | None:
    """Make the folder of a checkpoint that can be called, while its job goes on.

    Returns ``None`` when the trainer removed it meanwhile. Doing it again changes nothing.
    """
    spec = read_spec(context.run_folder(claim.job.id).spec)
    return _ModelMaker(context, claim, spec).checkpoint(step)


def remove_unlisted(context: WorkerContext, job_id: str) -> None:
    """Remove the folders of checkpoints that a job does not list any more.

    A crash before it leaves them to the survey of the disk.
    """
    listed = context.store.jobs.checkpoints(job_id, limit=MAX_CHECKPOINTS).items
    kept = {f"{job_id}-step-{row.step}" for row in listed}
    for folder in context.tuned_folder.glob(f"{job_id}-step-*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def result_table(
    metrics: Iterable[Mapping[str, Any]], columns: Mapping[str, str] = RESULT_COLUMNS
) -> bytes:
    """Return the result file: a row for each step, empty cells where nothing was measured.

    ``columns`` names the metric behind each; rewards come after them.
    """
    steps = list(metrics)
    columns = dict(columns)
    if any(name in row for row in steps for name in REWARD_COLUMNS):
        columns |= {name: name for name in REWARD_COLUMNS}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in steps:
        writer.writerow([_cell(row.get(metric)) for metric in columns.values()])
    return text.getvalue().encode()


def make_served_folder(source: Path, final: Path) -> str:
    """Copy what serving needs of a sealed checkpoint; return the new manifest's sha256.

    A folder that was made from the same checkpoint before is left as it is. Raises
    ``DamagedCheckpoint`` when ``source`` does not match its manifest.
    """
    verify(source)
    origin = hash_file(source / MANIFEST)
    if _is_made_from(final, origin):
        return hash_file(final / MANIFEST)
    work = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != MANIFEST and not path.name.startswith("state."):
            shutil.copyfile(path, work / path.name)
    return seal(work, final, {"made_from": origin})


@dataclass(frozen=True)
class _ModelMaker:
    """Makes the folders and records of one job's models."""

    context: WorkerContext
    claim: Claim
    spec: TrainSpec

    def tuned(self, source: Path) -> Model:
        assert self.claim.tuned_name is not None, "a job has its model's name before it runs"
        folder = self.context.tuned_folder / self.claim.job.id
        return self._model(self.claim.tuned_name, ModelKind.TUNED, source, folder)

    def checkpoints(self) -> dict[int, Model]:
        """Make the models of the checkpoints that are listed, still there and whole."""
        job_id = self.claim.job.id
        rows = self.context.store.jobs.checkpoints(job_id, limit=MAX_CHECKPOINTS).items
        made = {row.step: self.checkpoint(row.step) for row in rows}
        return {step: model for step, model in made.items() if model is not None}

    def checkpoint(self, step: int) -> Model | None:
        assert self.claim.tuned_name is not None, "a job has its model's name before it runs"
        job_id = self.claim.job.id
        name = checkpoint_name(self.claim.tuned_name, step)
        source = self.context.run_folder(job_id).checkpoints / step_folder_name(step)
        folder = self.context.tuned_folder / f"{job_id}-step-{step}"
        try:
            return self._model(name, ModelKind.CHECKPOINT, source, folder)
        except (DamagedCheckpoint, FileNotFoundError) as problem:  # the trainer keeps the newest
            _log.warning("checkpoint %s is left out: %s", name, problem)
            return None

    def _model(self, name: str, kind: ModelKind, source: Path, folder: Path) -> Model:
        sha256 = make_served_folder(source, folder)
        is_whole = self.spec.lora is None
        base = BaseRef(self.spec.base.name, str(folder), sha256) if is_whole else self.spec.base
        return Model(
            name=name,
            kind=kind,
            created_at=int(time.time()),
            owned_by=self.context.settings.organization,
            base=base,
            folder=str(folder),
            adapter_sha256=None if is_whole else sha256,
            job_id=self.claim.job.id,
            parent=self.claim.job.draft.parent_model,
        )


def _is_made_from(folder: Path, origin: str) -> bool:
    try:
        return verify(folder).get("made_from") == origin
    except DamagedCheckpoint:
        return False


def _cell(value: float | None) -> str:
    """Return a number with five decimals at most, as OpenAI's files have it."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}".rstrip("0").rstrip(".")
