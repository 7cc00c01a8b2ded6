from __future__ import annotations

from sintonia.training.row_order import RowOrder, validation_rows


def test_each_row_is_learned_once_in_each_epoch_in_a_fresh_order():
    order = RowOrder(num_rows=23, batch_size=4, seed=5)
    assert order.steps_an_epoch == 6
    epochs = [[r for s in range(e * 6 + 1, e * 6 + 7) for r in order.rows_of(s)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]
    assert [order.ends_epoch(step) for step in (5, 6, 7, 12)] == [False, True, False, True]
    assert [order.epoch_of(step) for step in (1, 6, 7, 12, 13)] == [1, 1, 2, 2, 3]


def test_rows_of_a_step_need_no_history():
    assert RowOrder(23, 4, 5).rows_of(17) == RowOrder(23, 4, 5).rows_of(17)
    assert RowOrder(23, 4, 6).rows_of(17) != RowOrder(23, 4, 5).rows_of(17)


def test_validation_rows_do_not_repeat_within_a_step():
    rows = validation_rows(3, num_rows=10, batch_size=8, seed=1)
    assert len(set(rows)) == 8
    assert validation_rows(3, num_rows=4, batch_size=8, seed=1) != []
