"""What a finished run leaves: which checkpoint is the model, what the curve meant, each row's loss.

Invariant: all of it follows from the run's directory, so an attempt that was killed here and its
successor say the same.
"""

from __future__ import annotations

from pathlib import Path

from sintonia.data.samples import Samples
from sintonia.errors import DamagedCheckpoint
from sintonia.runs.layout import AttemptFolder, RunFolder, step_folder_name, step_of
from sintonia.runs.records import ExitRecord, ExitStatus
from sintonia.sealed import read_json, verify
from sintonia.training import row_losses
from sintonia.training.checkpoint import STATE
from sintonia.training.loop import Run
from sintonia.training.stopping import Standing
from sintonia.training.verdict import judge

ROW_LOSSES = "row_losses.csv"


def conclude(run: Run, folder: RunFolder, attempt: AttemptFolder) -> ExitRecord:
    """Tell how a finished run went and return its exit record."""
    progress, now = run.learner.progress, run.standing
    if now is not None and progress.step < run.spec.total_steps:
        run.reporter.event(now.end_message)
    model = _model(run, folder, now)
    verdict = judge(run.curve)
    if verdict is not None:
        run.reporter.verdict(verdict)
    table = attempt.path / ROW_LOSSES
    row_losses.write_table(model, _samples(run), table)
    return ExitRecord(
        status=ExitStatus.SUCCEEDED,
        step=progress.step,
        trained_tokens=progress.trained_tokens,
        model_folder=str(model.relative_to(folder.path)),
        row_losses=str(table.relative_to(folder.path)),
        metrics=read_json(model / STATE)["metrics"],
    )


def _model(run: Run, folder: RunFolder, now: Standing | None) -> Path:
    """Return the checkpoint that becomes the model: the last, or with early stopping the best."""
    last = folder.checkpoints / step_folder_name(run.learner.progress.step)
    if now is None:
        return last
    best = folder.checkpoints / step_folder_name(now.best_step)
    try:
        verify(best)
    except DamagedCheckpoint as problem:
        run.reporter.event(
            f"The best checkpoint, step {step_of(best)}, was damaged; the model is the last one, "
            f"step {step_of(last)}: {problem}",
            "warn",
        )
        return last
    run.reporter.event(now.model_message)
    return best


def _samples(run: Run) -> dict[str, Samples]:
    found = {row_losses.TRAINING: run.training}
    if run.validation is not None:
        found[row_losses.VALIDATION] = run.validation
    return found
