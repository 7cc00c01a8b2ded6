from __future__ import annotations

import time

import pytest

from sintonia import ids
from sintonia.domain.jobs import TRANSITIONS, JobStatus, check_transition, statuses_before
from sintonia.domain.models import FINE_TUNED, checkpoint_name, slug, tuned_name


def test_terminal_statuses_lead_nowhere_and_all_others_can_be_cancelled():
    terminal = {status for status in JobStatus if status.is_terminal}
    assert terminal == {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    for status in set(JobStatus) - terminal:
        assert JobStatus.CANCELLED in TRANSITIONS[status]


def test_only_a_running_job_is_paused_and_a_paused_one_waits_for_its_turn_again():
    assert statuses_before(JobStatus.PAUSING) == {JobStatus.RUNNING}
    assert statuses_before(JobStatus.PAUSED) == {JobStatus.PAUSING}
    assert TRANSITIONS[JobStatus.PAUSED] == {JobStatus.QUEUED, JobStatus.CANCELLED}


def test_a_job_cannot_skip_a_status():
    with pytest.raises(AssertionError):
        check_transition(JobStatus.VALIDATING_FILES, JobStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("base", "suffix", "start"),
    [
        ("gpt-4o-mini-2024-07-18", "My Model!", "ft:gpt-4o-mini-2024-07-18:personal:my-model:"),
        ("tiny", None, "ft:tiny:personal::"),
        ("ft:tiny:personal:old:abcdefgh", "new", "ft:tiny:personal:new:"),
        ("ft:tiny:personal:old:abcdefgh:ckpt-step-3", "new", "ft:tiny:personal:new:"),
    ],
)
def test_tuned_names_follow_openais_grammar(base, suffix, start):
    name = tuned_name(base, "personal", suffix)
    assert name.startswith(start)
    assert FINE_TUNED.match(name)
    assert FINE_TUNED.match(checkpoint_name(name, 12))["step"] == "12"


def test_a_suffix_keeps_only_what_a_name_may_hold():
    assert slug("Hello, World / 2:x") == "hello-world-2-x"


def test_ids_have_openais_form():
    assert ids.is_id(ids.new_id(ids.JOB))
    assert not ids.is_id("ftjob-../../etc/passwd")
    assert not ids.is_id(ids.new_id(ids.FILE) + "\n")


def test_model_ids_sort_by_time(monkeypatch):
    first = ids.new_model_suffix()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert first[:6] < ids.new_model_suffix()[:6]
