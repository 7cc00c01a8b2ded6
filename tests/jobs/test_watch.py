"""The pace of a run and the pulse of a trainer."""

from __future__ import annotations

import os
import time

from sintonia.jobs.watch import Pulse, Rate
from sintonia.runs.layout import RunFolder
from sintonia.runs.records import Record, RecordKind


def steps(*times, first=1, total=10):
    return [
        Record(n, RecordKind.STEP, at, {"step": first + n, "total_steps": total})
        for n, at in enumerate(times)
    ]


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
