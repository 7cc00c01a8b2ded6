"""Stored completions and permissions on a real database."""

from __future__ import annotations

import dataclasses
import threading
import time
import tracemalloc

import pytest
import sqlalchemy as sa

from sintonia.domain.stored_completions import CompletionFilter, StoredCompletion
from sintonia.errors import CompletionNotFound, InvalidValue, PermissionNotFound, Unavailable
from sintonia.store.database import Database
from sintonia.store.home import Store
from sintonia.store.paging import Cursor
from sintonia.store.tables import COMPLETION_METADATA, COMPLETIONS

NOW = int(time.time())
FIRST_PAGE = Cursor(after=None, limit=100)


def completion(number: int, **changes) -> StoredCompletion:
    made = StoredCompletion(
        id=f"chatcmpl-{number}",
        created_at=NOW + number,
        expires_at=NOW + 86_400,
        model="small",
        request={"messages": [{"role": "user", "content": f"say {number}"}]},
        answer={"choices": [{"message": {"role": "assistant", "content": str(number)}}]},
    )
    return dataclasses.replace(made, **changes)


def add(store, *completions: StoredCompletion) -> None:
    for one in completions:
        store.completions.add(one)


def found(store, wanted: CompletionFilter) -> list[str]:
    """Return what a filter finds, which listing and walking must agree on."""
    listed = [one.id for one in store.completions.list(wanted, after=None, limit=100).items]
    assert [one.id for one in store.completions.matching(wanted)] == listed
    return listed


def rows_of(given, table: sa.Table) -> int:
    engine = sa.create_engine(f"sqlite:///{given.home}/sintonia.db")
    with engine.connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(table))
    engine.dispose()
    return count


def test_what_was_kept_comes_back_as_it_was(store):
    kept = completion(1, metadata={"a": "ü", "b": ""}, request_id="req_1")
    add(store, kept)
    assert store.completions.get(kept.id) == kept


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (CompletionFilter(), [1, 2, 3, 4]),
        (CompletionFilter(models=("large",)), [2, 4]),
        (CompletionFilter(models=("large", "small")), [1, 2, 3, 4]),
        (CompletionFilter(metadata={"task": "sum"}), [1, 2]),
        (CompletionFilter(metadata={"task": "sum", "day": "1"}), [2]),
        (CompletionFilter(metadata={"task": "1"}), []),
        (CompletionFilter(metadata={}), [4]),
        (CompletionFilter(created_after=NOW + 2), [2, 3, 4]),
        (CompletionFilter(created_before=NOW + 2), [1]),
        (CompletionFilter(created_after=NOW + 2, created_before=NOW + 4), [2, 3]),
        (CompletionFilter(ids=("chatcmpl-3", "chatcmpl-9")), [3]),
        (CompletionFilter(models=("large",), metadata={"task": "sum"}), [2]),
    ],
)
def test_a_filter_finds_what_has_all_that_it_names(store, wanted, numbers):
    add(
        store,
        completion(1, metadata={"task": "sum"}),
        completion(2, metadata={"task": "sum", "day": "1"}, model="large"),
        completion(3, metadata={"task": "poem", "day": "1"}),
        completion(4, model="large"),
    )
    assert found(store, wanted) == [f"chatcmpl-{number}" for number in numbers]


def test_the_newest_so_many_are_walked_from_the_oldest_of_them(store):
    add(store, *(completion(n, model="large" if n % 2 else "small") for n in range(10)))
    wanted = CompletionFilter(models=("large",))
    walked = [one.id for one in store.completions.matching(wanted, newest=3)]
    assert walked == ["chatcmpl-5", "chatcmpl-7", "chatcmpl-9"]
    assert len(list(store.completions.matching(wanted, newest=99))) == 5


def test_one_that_is_added_while_they_are_walked_is_seen_once(store):
    add(store, *(completion(number) for number in range(100)))
    walk = store.completions.matching(CompletionFilter())
    first = next(walk)
    add(store, completion(100))
    store.completions.delete("chatcmpl-50")
    walked = [first.id, *(one.id for one in walk)]
    assert len(walked) == len(set(walked))
    assert walked[-1] == "chatcmpl-100"


def test_an_expired_one_is_gone_at_once_and_its_rows_when_it_is_swept(store, given):
    add(store, completion(1, expires_at=NOW - 1, metadata={"a": "b"}), completion(2))
    with pytest.raises(CompletionNotFound):
        store.completions.get("chatcmpl-1")
    with pytest.raises(CompletionNotFound):
        store.completions.set_metadata("chatcmpl-1", {})
    with pytest.raises(CompletionNotFound):
        store.completions.delete("chatcmpl-1")
    assert found(store, CompletionFilter()) == ["chatcmpl-2"]
    assert store.completions.count_by_model() == {"small": 1}
    assert (rows_of(given, COMPLETIONS), rows_of(given, COMPLETION_METADATA)) == (2, 1)
    assert store.completions.remove_expired() == 1
    assert (rows_of(given, COMPLETIONS), rows_of(given, COMPLETION_METADATA)) == (1, 0)


def test_more_than_are_removed_at_once_are_all_swept(store, given):
    add(store, *(completion(number, expires_at=NOW - 1) for number in range(501)))
    assert store.completions.remove_expired() == 501
    assert rows_of(given, COMPLETIONS) == 0


def test_new_metadata_takes_the_place_of_the_old(store):
    add(store, completion(1, metadata={"a": "1", "b": "2"}))
    changed = store.completions.set_metadata("chatcmpl-1", {"b": "3"})
    assert changed == store.completions.get("chatcmpl-1")
    assert changed.metadata == {"b": "3"}
    assert found(store, CompletionFilter(metadata={"a": "1"})) == []
    assert found(store, CompletionFilter(metadata={"b": "3"})) == ["chatcmpl-1"]


def test_a_busy_database_keeps_nothing_of_a_completion(store, given):
    impatient = Store(Database(f"sqlite:///{given.home}/sintonia.db", busy_seconds=0.05), None)
    blocked = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with store.completions._database.write():
            blocked.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    blocked.wait(10)
    with pytest.raises(Unavailable):
        impatient.completions.add(completion(1))
    done.set()
    holder.join()
    impatient.close()
    assert rows_of(given, COMPLETIONS) == 0


def test_twenty_thousand_completions_are_walked_in_flat_memory(store):
    # 20,000 rows of 4 kB: 80 MB, of which no more than two reads of a hundred are held.
    text = "x" * 4000
    with store.completions._database.write() as connection:
        for start in range(0, 20_000, 1000):
            rows = [
                dataclasses.asdict(completion(number, answer={"text": text}))
                for number in range(start, start + 1000)
            ]
            connection.execute(COMPLETIONS.insert(), rows)
    tracemalloc.start()
    walked = sum(1 for _ in store.completions.matching(CompletionFilter()))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert walked == 20_000
    assert peak_bytes < 8 * 10**6


def test_a_project_has_one_permission_for_a_model(store):
    first = store.permissions.create("m", ["p1", "p2", "p1"])
    assert [one.project_id for one in first] == ["p1", "p2"]
    again = store.permissions.create("m", ["p3", "p1"])
    assert again[1] == first[0]
    other = store.permissions.create("other", ["p1"])
    assert other[0].id != first[0].id
    listed = store.permissions.list("m", FIRST_PAGE).items
    assert [one.project_id for one in listed] == ["p3", "p2", "p1"]


def test_permissions_are_paged_both_ways_and_by_project(store):
    ids = [one.id for one in store.permissions.create("m", [f"p{n}" for n in range(5)])]
    page = store.permissions.list("m", Cursor(after=ids[3], limit=2))
    assert ([one.id for one in page.items], page.has_more) == ([ids[2], ids[1]], True)
    page = store.permissions.list("m", Cursor(after=ids[2], limit=2, is_ascending=True))
    assert ([one.id for one in page.items], page.has_more) == (ids[3:], False)
    only = store.permissions.list("m", FIRST_PAGE, project_id="p4").items
    assert [one.id for one in only] == ids[4:]
    with pytest.raises(InvalidValue):
        store.permissions.list("other", Cursor(after=ids[0], limit=2))


def test_a_permission_is_taken_back_from_its_own_model_only(store):
    (made,) = store.permissions.create("m", ["p1"])
    with pytest.raises(PermissionNotFound):
        store.permissions.delete("other", made.id)
    store.permissions.delete("m", made.id)
    with pytest.raises(PermissionNotFound):
        store.permissions.delete("m", made.id)
