"""What the training benchmark counts, without running it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row(prompt: int, *answers: int):
    from sides.work import Row

    return Row([1] * prompt, [[2 + number] * length for number, length in enumerate(answers)])


def answer(loss: float = 1.0, seconds: float = 1.0):
    from sides.process import Answer

    return Answer(loss, seconds, 10, 100, 1.0, 0.0)


def work(folder: Path, lengths=(5, 9, 3, 7)):
    from sides.work import Work

    rows = [row(length, 1) for length in lengths]
    batches = [rows[:2], rows[2:]]
    return Work("sft", str(folder / "base"), str(folder / "start"), batches, 1, 10)


def test_a_long_row_is_cut_at_its_end_and_left_out_when_nothing_is_left():
    from sides.rows import cut

    assert cut(row(6, 2, 8), 10) == row(6, 2, 4)
    assert cut(row(10, 2), 10) is None


def test_a_pair_that_is_the_same_when_cut_is_left_out():
    from sides.rows import cut
    from sides.work import Row

    pair = Row([1] * 8, [[5, 6, 7], [5, 6, 8]])
    assert cut(pair, 10) is None
    assert cut(pair, 11) == pair


def test_a_setting_is_tried_only_where_it_is_something_of_its_own():
    from sides.variants import VARIANTS

    assert not VARIANTS["accumulation-4"].fits("dpo", 4)
    assert not VARIANTS["accumulation-4"].fits("sft", 10)
    assert VARIANTS["accumulation-4"].fits("sft", 8)
    assert not VARIANTS["padding-free"].fits("dpo", 8)


def test_grouping_by_length_keeps_every_row_and_puts_like_ones_together(tmp_path):
    from sides.trials import work_of
    from sides.variants import VARIANTS

    given = work(tmp_path)
    grouped = work_of(given, VARIANTS["length-grouping"]).batches
    lengths = sorted(sorted(row.longest for row in batch) for batch in grouped)
    assert lengths == [[4, 6], [8, 10]]
    assert work_of(given, VARIANTS["plain"]).batches == given.batches


def test_a_loss_that_is_not_a_number_differs_from_every_other():
    from sides.figures import largest_difference

    assert largest_difference([answer(1.001)], [answer(1.0)]) == pytest.approx(1e-3)
    assert largest_difference([answer(math.nan)], [answer(1.0)]) == math.inf


def test_ratios_are_of_neighbouring_steps_and_leave_the_warm_up_out():
    from sides.figures import comparison

    ours = [answer(seconds=s) for s in (9.0, 1.0, 2.0, 4.0)]
    trl = [answer(seconds=s) for s in (1.0, 3.0, 6.0, 40.0)]
    unshared = [answer(seconds=s) for s in (1.0, 2.0, 4.0, 8.0)]
    found = comparison({"ours": ours, "trl": trl, "ours_unshared": unshared}, rows=8)
    assert found["ratios"] == {"trl": 3.0}
    assert found["parts"] == {"sharing": 2.0, "rest": 1.5}
    assert found["ours"]["seconds"] == 2.0


def test_a_side_that_cannot_start_is_a_setting_that_failed(tmp_path):
    from sides.trials import try_all
    from sides.variants import VARIANTS

    (trial,) = try_all(work(tmp_path), [VARIANTS["plain"]], tmp_path)
    assert not trial.is_valid
    assert "ended with 1" in trial.failure
    assert trial.as_json()["ratio"] is None


def test_a_shape_is_a_model_that_reads_as_the_one_whose_tokenizer_it_has(tiny_home, tmp_path):
    import torch

    from sides.shapes import SHAPES, Shape, make
    from sintonia.data.renderer import Renderer
    from sintonia.models import attention
    from sintonia.models.load import load_base
    from sintonia.weights import model_shapes

    (base,) = (tiny_home / "models" / "base").iterdir()
    folder = make(Shape(64, 128, 2, 4, 2), base, tmp_path / "made", torch.float32)
    assert attention.is_used_by(load_base(folder))
    known = Renderer.from_folder(base)
    assert Renderer.from_folder(folder).template_sha256 == known.template_sha256
    assert model_shapes(folder)["model.embed_tokens.weight"] == (320, 64)
    assert known.num_tokens <= 320
    assert set(SHAPES) == {"1b", "3b"}


def test_losses_may_lie_as_far_apart_as_the_numbers_are_rounded(tmp_path):
    from dataclasses import replace

    made = work(tmp_path)
    assert made.largest_difference == 1e-3
    assert replace(made, device="cuda").largest_difference == 2e-2
    assert replace(made, is_quantized=True).largest_difference == math.inf
    made.write(tmp_path / "work.json")
    assert type(made).read(str(tmp_path / "work.json")) == made


def test_the_peak_is_that_of_this_process():
    from sides.figures import product_peak
    from sides.work import peak_bytes

    assert peak_bytes("cpu") > 10**7
    assert product_peak(1) > 10**8
