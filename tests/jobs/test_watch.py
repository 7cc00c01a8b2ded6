"""The pace of a run and the pulse of a trainer."""

from __future__ import annotations

import os
import time

from worker_kit import submit

from sintonia.domain.jobs import EventLevel
from sintonia.jobs.prepare import prepare_job
from sintonia.jobs.watch import Pulse, Rate
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import Record, RecordKind
from sintonia.store import Stage
from sintonia.store.claims import EventImport, ImportBatch


def steps(*times, first=1, total=10):
    return [
        Record(n, RecordKind.STEP, at, {"step": first + n, "total_steps": total})
        for n, at in enumerate(times)
    ]


def test_what_the_machine_chose_is_shown_with_where_it_came_from(context, store):
    job = submit(store)
    prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))
    before = store.jobs.get(job.id)
    assert before.resolved["settings"]["precision"] == "auto"
    claim = store.queue.claim(Stage.RUNNING, "w", 30)
    settled = {"precision": "float32", "micro_batch_tokens": 2048}
    said = EventImport(1.0, EventLevel.INFO, "Training computes in float32", settled=settled)
    store.queue.import_records(store.queue.start(claim), ImportBatch((said,), 10, 3))
    after = store.jobs.get(job.id)
    assert after.resolved["settings"]["precision"] == "float32"
    assert after.origins["precision"] == "derived"
    assert after.origins["micro_batch_tokens"] == "default", "it stayed as it was planned"
    assert after.resolved["n_epochs"] == before.resolved["n_epochs"]


def test_the_end_is_told_from_the_pace_of_the_steps():
    rate = Rate()
    assert rate.finish_after(steps(100.0)) is None, "one step has no pace"
    assert rate.finish_after(steps(102.0, 104.0, first=2)) == 104 + 7 * 2
    assert rate.finish_after([Record(9, RecordKind.EVENT, 105.0, {})]) is None


def test_a_pulse_stops_when_the_file_stays_as_it_is(tmp_path):
    attempt = RunFolder(tmp_path).attempt(1)
    attempt.path.mkdir()
    pulse = Pulse(attempt, limit_seconds=0.05)
    assert not pulse.has_stopped()
    attempt.heartbeat.touch()
    os.utime(attempt.heartbeat, (1, 1))  # however old it looks: only change counts
    time.sleep(0.06)
    assert not pulse.has_stopped()
    time.sleep(0.06)
    assert pulse.has_stopped()
    attempt.heartbeat.touch()
    assert not pulse.has_stopped()
