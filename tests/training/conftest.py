"""A plan over the tiny model that each test may change."""

from __future__ import annotations

import dataclasses

import pytest
from run_kit import row

from sintonia import workflow
from sintonia.domain.methods import Hyperparameters
from sintonia.runs.spec import Origin, TrainSpec


@pytest.fixture(scope="session")
def planned(tiny_home, tmp_path_factory) -> TrainSpec:
    """A plan of 2 epochs of 6 steps over unequal rows, with validation."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "train.jsonl").write_text("\n".join(row(n) for n in range(23)))
    others = (row(n).replace("!", "?") for n in range(50, 62))  # who learns "!" by heart errs
    (folder / "valid.jsonl").write_text("\n".join(others))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINTONIA_HOME", str(tiny_home))
        report = workflow.validate(folder / "train.jsonl", base="tiny")
        validation = workflow.validate(folder / "valid.jsonl", base="tiny")
        chosen = Hyperparameters(n_epochs=2, batch_size=4)
        plan = workflow.plan(report, base="tiny", validation=validation, hyperparameters=chosen)
    # The same numbers on every machine, whatever it multiplies faster.
    origins = {**plan.origins, "precision": Origin.GIVEN}
    return dataclasses.replace(plan, threads=1, origins=origins)
