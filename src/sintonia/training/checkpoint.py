"""Checkpoints: what a step leaves on disk, whole or not at all, and finding the newest good one.

A checkpoint holds the adapter in PEFT's layout, or the whole model in transformers' where every
weight is trained, the tokenizer and template it was trained with,
the model card, and the optimizer's state. Nothing is pickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sintonia import failpoints
from sintonia.errors import DamagedCheckpoint, RefusedModel
from sintonia.models import adapters, whole
from sintonia.models.policy import Policy
from sintonia.runs.layout import RunFolder, step_folder_name, step_of
from sintonia.runs.spec import TrainSpec
from sintonia.sealed import read_json, seal, verify, write_json
from sintonia.training import model_card, row_losses
from sintonia.training.distributed import ALONE, World
from sintonia.training.optimizer import Optimizer
from sintonia.training.reporter import Reporter
from sintonia.training.room import Room
from sintonia.training.row_losses import RowLosses
from sintonia.training.turn import always

STATE_TENSORS = "state.safetensors"
STATE = "state.json"
SNAPSHOTS_KEPT = 2
_COPIES = 3
"""Of the trained tensors in a checkpoint: themselves and AdamW's two moments."""


@dataclass
class Progress:
    """Where the run stands; everything of the loop that is not in a tensor."""

    step: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True)
class Learner:
    """What a checkpoint saves and restores."""

    policy: Policy
    optimizer: Optimizer
    progress: Progress
    row_losses: dict[str, RowLosses] = field(default_factory=dict)
    """By ``training`` and ``validation``."""


class Checkpoints:
    """Writes and finds the checkpoints of one run.

    Of several processes the first one alone writes and tidies; all of them resume. A checkpoint
    does not know how many there were.
    """

    def __init__(
        self,
        run: RunFolder,
        spec: TrainSpec,
        room: Room,
        require_turn: Callable[[], None] = always,
        world: World = ALONE,
    ) -> None:
        """``require_turn`` is asked before each removal, and before a checkpoint gets its name."""
        self._run = run
        self._spec = spec
        self._room = room
        self._require_turn = require_turn
        self._world = world
        if world.is_first:
            self._require_turn()
            self._tidy()

    def _tidy(self) -> None:
        run = self._run
        for folder in (run.checkpoints, run.snapshots):
            folder.mkdir(exist_ok=True)
            for torn in folder.glob(".*.work"):
                shutil.rmtree(torn)

    def save_epoch(
        self, learner: Learner, metrics: Mapping[str, Any], best_step: int | None = None
    ) -> Path:
        """Save the end of an epoch; the oldest beyond those kept go, but never ``best_step``."""
        final = self._save(self._run.checkpoints, learner, metrics)
        self._require_turn()
        _keep_newest(self._run.checkpoints, self._spec.keep_checkpoints, best_step)
        _keep_newest(self._run.snapshots, 0)
        return final

    def save_snapshot(self, learner: Learner, metrics: Mapping[str, Any]) -> Path:
        """Save a point to resume from."""
        final = self._save(self._run.snapshots, learner, metrics)
        self._require_turn()
        _keep_newest(self._run.snapshots, SNAPSHOTS_KEPT)
        return final

    def resume(self, learner: Learner, reporter: Reporter) -> Mapping[str, Any]:
        """Restore the newest good point; a damaged one is named and the one before it serves.

        Raises ``RefusedModel`` for a point of another run.

        Returns the metrics of that step; empty when the run begins.
        """
        found = self._world.from_first(lambda: self._newest_good(reporter))
        if found is None:
            return {}
        folder = self._run.path / found
        state = read_json(folder / STATE)
        self._load_weights(learner, folder)
        learner.optimizer.load_state_tensors(load_file(folder / STATE_TENSORS))
        learner.progress.step = step_of(folder)
        learner.progress.trained_tokens = state["trained_tokens"]
        row_losses.load(learner.row_losses, folder)
        reporter.event(f"Training resumed after step {learner.progress.step}")
        metrics: Mapping[str, Any] = state["metrics"]
        if folder.parent == self._run.checkpoints:  # a kill may have come before it was told
            reporter.checkpoint(folder, metrics)
        return metrics

    def _newest_good(self, reporter: Reporter) -> str | None:
        """Return the folder to resume from, relative to the run; damaged ones go."""
        for folder in self._run.resume_points():
            try:
                verify(folder)
            except DamagedCheckpoint as problem:
                self._require_turn()
                reporter.event(f"A checkpoint was damaged and is not used: {problem}", "warn")
                shutil.rmtree(folder)  # or it would count among those kept
                continue
            self._refuse_foreign(folder, read_json(folder / STATE)["run_id"])
            return str(folder.relative_to(self._run.path))
        return None

    def _refuse_foreign(self, folder: Path, run_id: str) -> None:
        if run_id != self._spec.run_id:
            raise RefusedModel(
                f"Checkpoint {folder.parent.name}/{folder.name} belongs to {run_id}, not to "
                f"{self._spec.run_id}. Take it out of the run's folder."
            )

    def _save(self, parent: Path, learner: Learner, metrics: Mapping[str, Any]) -> Path:
        self._room.require(_size_bytes(learner))
        name = step_folder_name(learner.progress.step)
        work = parent / f".{name}.{os.getpid()}.work"
        work.mkdir()
        try:
            self._write(work, learner, metrics)
            seal(work, parent / name, may_rename=self._require_turn)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)  # a full disk needs the room
            raise
        return parent / name

    def _load_weights(self, learner: Learner, folder: Path) -> None:
        load = whole.load if self._spec.lora is None else adapters.load
        load(learner.policy.model, folder)

    def _save_weights(self, learner: Learner, work: Path) -> None:
        if self._spec.lora is None:
            whole.save(learner.policy.model, work)
        else:
            adapters.save(learner.policy.model, work, self._spec.lora, self._spec.base.name)

    def _write(self, work: Path, learner: Learner, metrics: Mapping[str, Any]) -> None:
        failpoints.reach("checkpoint.open")
        self._save_weights(learner, work)
        save_file(learner.optimizer.state_tensors(), work / STATE_TENSORS)
        failpoints.reach("checkpoint.write")
        row_losses.save(learner.row_losses, work)
        model_card.write(work, self._spec, learner.progress.step, metrics)
        state = {
            "run_id": self._spec.run_id,
            "trained_tokens": learner.progress.trained_tokens,
            "metrics": dict(metrics),
        }
        write_json(work / STATE, state)


def _size_bytes(learner: Learner) -> int:
    """Return about how large a checkpoint will be."""
    trained = (p for p in learner.policy.model.parameters() if p.requires_grad)
    return _COPIES * sum(p.numel() * p.element_size() for p in trained)


def _keep_newest(folder: Path, number: int, best_step: int | None = None) -> None:
    """Remove all but ``number`` folders: the newest ones, and the best, which takes a place."""
    steps = sorted((step_of(path) for path in folder.glob("step-*")), reverse=True)
    kept = set(steps[:number])
    if best_step in steps and best_step not in kept:
        # The newest stays in any case: training resumes from it.
        kept = {best_step, *steps[: max(1, number - 1)]}
    for step in set(steps) - kept:
        shutil.rmtree(folder / step_folder_name(step))
