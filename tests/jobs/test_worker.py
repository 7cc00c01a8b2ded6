"""The whole worker, with real trainer processes that learn nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from worker_kit import behave, open_context, submit, texts, upload, wait_until, working

from sintonia.domain.jobs import JobStatus
from sintonia.domain.models import ModelKind
from sintonia.jobs.attempts import FAILED_AND_RETRIED, INTERRUPTED
from sintonia.runs.records import ExitStatus, read_exit
from sintonia.sealed import verify
from sintonia.store import Stage, Store

CSV_OF_SIX_STEPS = b"""\
step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy
1,1,0.5,,
2,0.5,0.5,1,0.33333
3,0.33333,0.5,,
4,0.25,0.5,0.5,0.33333
5,0.2,0.5,,
6,0.16667,0.5,0.33333,0.33333
"""


def finished(store, job_id, timeout_seconds=20.0):
    """Wait for a job to end; return it."""
    wait_until(
        lambda: store.jobs.get(job_id).status.is_terminal,
        timeout_seconds,
        f"still {store.jobs.get(job_id)}",
    )
    return store.jobs.get(job_id)


def assert_succeeded_once(store, given, job_id):
    """Check that a job succeeded with everything there once, whatever happened on the way."""
    job = store.jobs.get(job_id)
    assert job.status is JobStatus.SUCCEEDED, (job.error, texts(store, job_id))
    assert [row["step"] for row in store.jobs.metrics(job_id)] == [1, 2, 3, 4, 5, 6]
    messages = texts(store, job_id)
    steps = [message for message in messages if message.startswith("Step ")]
    assert [message.split("/")[0] for message in steps] == [f"Step {n}" for n in range(1, 7)]
    once = [m for m in messages if not m.startswith(("Step ", FAILED_AND_RETRIED))]
    assert len(once) == len(set(once))
    (model,) = store.models.list()
    assert model.name == job.fine_tuned_model
    checkpoints = store.models.list(kinds=[ModelKind.CHECKPOINT])
    assert [c.name for c in checkpoints] == [f"{model.name}:ckpt-step-{n}" for n in (2, 4, 6)]
    listed = [checkpoint.model for checkpoint in store.jobs.checkpoints(job_id).items]
    assert listed[::-1] == [checkpoint.name for checkpoint in checkpoints]
    (result_id,) = job.result_files
    assert [f.id for f in store.files.list(purpose="fine-tune-results").items] == [result_id]
    with store.files.open(result_id) as file:
        assert file.read() == CSV_OF_SIX_STEPS
    for served in (model, *checkpoints):
        manifest = verify(Path(served.folder))
        assert set(manifest["files"]) == {"adapter_model.safetensors", "adapter_config.json"}
    tuned = given.home / "models" / "tuned"
    assert len(list(tuned.iterdir())) == 4, "no leftovers"


def test_a_job_goes_from_file_to_model(context, store, given):
    job = submit(store)
    with working(context):
        done = finished(store, job.id)
    assert_succeeded_once(store, given, job.id)
    assert (done.trained_tokens, done.attempt) == (600, 1)
    assert (done.resolved["n_epochs"], done.resolved["batch_size"]) == (3, 6)
    assert done.resolved["learning_rate_multiplier"] == 1.0
    assert done.origins["n_epochs"] == "given"
    name = done.fine_tuned_model
    assert name.startswith("ft:tiny:personal::")
    assert [m for m in texts(store, job.id) if not m.startswith("Step")] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.draft.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Data is ready",
        f"Checkpoint created at step 2 with Snapshot ID: {name}:ckpt-step-2",
        f"Checkpoint created at step 4 with Snapshot ID: {name}:ckpt-step-4",
        f"Checkpoint created at step 6 with Snapshot ID: {name}:ckpt-step-6",
        f"New fine-tuned model created: {name}",
        "The job has successfully completed",
    ]
    assert (given.home / "runs" / job.id / "attempt-1" / "output.log").read_text() == (
        "attempt 1 begins\n"
    )


def test_a_trainer_that_crashes_is_started_again_and_resumes(context, store, given):
    behave(given.home, a1={"crash_at": 4}, a2={"crash_at": 6})
    job = submit(store)
    with working(context):
        assert finished(store, job.id).attempt == 3
    assert_succeeded_once(store, given, job.id)
    assert texts(store, job.id).count(FAILED_AND_RETRIED) == 2


def test_attempts_that_get_further_do_not_count_as_failures(given, store):
    given = replace(given, trainer_attempts=1)
    context = open_context(given, store)
    behave(given.home, a1={"crash_at": 3}, a2={"crash_at": 5})
    job = submit(store)
    with working(context):
        finished(store, job.id)
    assert_succeeded_once(store, given, job.id)


def test_a_trainer_that_always_dies_is_given_up_with_its_last_words(context, store, given):
    behave(given.home, every={"crash_at": 4})
    job = submit(store)
    other = submit(store)
    with working(context):
        done = finished(store, job.id)
        finished(store, other.id)
    assert done.status is JobStatus.FAILED
    assert done.error.code == "server_error"
    assert "3 times in a row" in done.error.message
    assert "Segmentation fault (not really)" in done.error.message
    # The first attempt made a checkpoint; three more got no further.
    assert done.attempt == 4
    assert store.models.list() == []


def test_attempts_that_vanish_for_want_of_memory_do_not_count_as_failures(given, store):
    given = replace(given, trainer_attempts=2)
    context = open_context(given, store)
    killed = {"crash_at": 3, "short_of_memory": True}
    behave(given.home, **{f"a{number}": killed for number in range(1, 6)})
    job = submit(store)
    with working(context):
        assert finished(store, job.id).attempt == 6
    assert_succeeded_once(store, given, job.id)


def test_an_error_that_another_attempt_cannot_mend_fails_at_once(context, store, given):
    behave(given.home, every={"fail": {"code": "model_refused", "message": "No such layer."}})
    job = submit(store)
    with working(context):
        done = finished(store, job.id)
    assert (done.status, done.attempt) == (JobStatus.FAILED, 1)
    assert (done.error.code, done.error.message) == ("model_refused", "No such layer.")
    assert texts(store, job.id)[-1] == "No such layer."


def test_an_error_that_may_pass_is_tried_again(context, store, given):
    full = {"code": "insufficient_storage", "message": "The disk is full.", "is_retryable": True}
    behave(given.home, a1={"fail": full}, a2={"fail": full})
    job = submit(store)
    with working(context):
        assert finished(store, job.id).attempt == 3
    assert_succeeded_once(store, given, job.id)
    assert texts(store, job.id).count(f"{FAILED_AND_RETRIED} The disk is full.") == 2


def test_a_trainer_that_hangs_is_killed_and_started_again(context, store, given):
    behave(given.home, a1={"hang_at": 3, "deaf": True})
    job = submit(store)
    with working(context):
        finished(store, job.id)
    assert_succeeded_once(store, given, job.id)


def test_a_trainer_that_somebody_stopped_goes_on(context, store, given):
    behave(given.home, step_seconds=0.1)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
        os.kill(int(store.jobs.get(job.id).handle.split(":")[0]), signal.SIGTERM)
        finished(store, job.id)
    assert_succeeded_once(store, given, job.id)
    assert INTERRUPTED in texts(store, job.id)


def test_a_damaged_result_is_trained_again(context, store, given):
    behave(given.home, a1={"damage": True})
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.get(job.id).attempt >= 2)
        last = given.home / "runs" / job.id / "checkpoints" / "step-000006"
        done = finished(store, job.id)
    # The fake trainer takes the damaged folder for a good one: no attempt gets further.
    assert done.status is JobStatus.FAILED
    assert "damaged result" in done.error.message
    assert last.exists()


def test_cancel_stops_the_trainer(context, store, given):
    behave(given.home, step_seconds=0.05, steps=1000)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
        handle = store.jobs.get(job.id).handle
        assert context.executor.is_alive(handle)
        assert store.jobs.get(job.id).estimated_finish is None or (
            store.jobs.get(job.id).estimated_finish > time.time()
        )
        cancelled = store.jobs.cancel(job.id)
        wait_until(lambda: not context.executor.is_alive(handle), 2.0)
        wait_until(lambda: store.jobs.get(job.id).handle is None)
    assert cancelled.status is store.jobs.get(job.id).status is JobStatus.CANCELLED
    assert texts(store, job.id)[-1] == "Fine-tuning job cancelled"


def paused(store, job_id):
    wait_until(lambda: store.jobs.get(job_id).status is JobStatus.PAUSED)


def test_a_paused_job_frees_its_place_survives_a_new_worker_and_goes_on(context, store, given):
    behave(given.home, every={"wait_at": 5})
    job = submit(store)
    with working(context):
        wait_until(lambda: len(store.jobs.metrics(job.id)) == 4)
        handle = store.jobs.get(job.id).handle
        assert store.jobs.pause(job.id).status is JobStatus.PAUSING
        paused(store, job.id)
        assert not context.executor.is_alive(handle)
        (given.home / "go").touch()
        assert finished(store, submit(store).id).status is JobStatus.SUCCEEDED
    with working(open_context(given, store)):
        time.sleep(0.2)  # ten looks of the worker
        resting = store.jobs.get(job.id)
        assert (resting.status, resting.attempt, resting.handle) == (JobStatus.PAUSED, 1, None)
        store.jobs.resume(job.id)
        assert finished(store, job.id).attempt == 2
    assert [row["step"] for row in store.jobs.metrics(job.id)] == [1, 2, 3, 4, 5, 6]
    messages = texts(store, job.id)
    assert "Fine-tuning job paused after step 4" in messages
    assert FAILED_AND_RETRIED not in messages


def test_a_pause_waits_for_a_trainer_that_still_works_on_its_step(context, store, given):
    assert context.pace.hang_seconds == 0.6
    behave(given.home, steps=1000, every={"wait_at": 5, "beats_after_stop": 12})
    job = submit(store)
    with working(context):
        wait_until(lambda: len(store.jobs.metrics(job.id)) == 4)
        store.jobs.pause(job.id)
        paused(store, job.id)
    ended = read_exit(context.run_folder(job.id).attempt(1))
    assert ended.status is ExitStatus.STOPPED, "it ended by itself"


def test_a_trainer_that_hangs_while_it_pauses_is_killed(context, store, given):
    behave(given.home, steps=1000, every={"wait_at": 5, "hangs_after_stop": True})
    job = submit(store)
    with working(context):
        wait_until(lambda: len(store.jobs.metrics(job.id)) == 4)
        store.jobs.pause(job.id)
        paused(store, job.id)
    assert read_exit(context.run_folder(job.id).attempt(1)) is None
    assert store.jobs.get(job.id).attempt == 1


def test_a_pause_is_finished_by_the_worker_that_comes_after(context, store, given):
    behave(given.home, step_seconds=0.05, steps=1000)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
    handle = store.jobs.get(job.id).handle
    store.jobs.pause(job.id)
    with working(open_context(given, store)):
        paused(store, job.id)
    assert not context.executor.is_alive(handle)


def test_a_pause_of_a_job_whose_trainer_died_with_its_worker_needs_no_trainer(
    context, store, given
):
    behave(given.home, step_seconds=0.05, steps=1000)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
    context.executor.stop(store.jobs.get(job.id).handle, 1)
    store.jobs.pause(job.id)
    with working(open_context(given, store)):
        paused(store, job.id)
    assert store.jobs.get(job.id).attempt == 1


def test_a_paused_job_is_cancelled_without_a_worker(context, store, given):
    behave(given.home, step_seconds=0.05, steps=1000)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
        store.jobs.pause(job.id)
        paused(store, job.id)
    assert store.jobs.cancel(job.id).status is JobStatus.CANCELLED


def test_the_listed_checkpoints_of_a_job_that_never_succeeds_can_be_called(context, store, given):
    behave(given.home, steps=1000, every={"wait_at": 11})
    job = submit(store)
    with working(context):
        wait_until(lambda: len(store.jobs.metrics(job.id)) >= 10)
        wait_until(lambda: store.jobs.checkpoints(job.id).items[0].step == 10)
        store.jobs.cancel(job.id)
        wait_until(lambda: store.jobs.get(job.id).handle is None)
    listed = store.jobs.checkpoints(job.id).items
    assert [checkpoint.step for checkpoint in listed] == [10, 8, 6]
    models = [store.models.get(checkpoint.model) for checkpoint in listed]
    for model in models:
        assert "adapter_model.safetensors" in verify(Path(model.folder))["files"]
    assert len(store.models.list(kinds=[ModelKind.CHECKPOINT])) == 3
    folders = {Path(model.folder) for model in models}
    assert set((given.home / "models" / "tuned").iterdir()) == folders


def test_a_trainer_that_is_deaf_to_cancel_is_killed(context, store, given):
    behave(given.home, step_seconds=0.05, steps=1000, every={"deaf": True})
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
        handle = store.jobs.get(job.id).handle
        store.jobs.cancel(job.id)
        wait_until(lambda: not context.executor.is_alive(handle), 5.0)


def test_a_cancelled_job_of_a_dead_worker_has_its_trainer_stopped(context, store, given):
    behave(given.home, step_seconds=0.05, steps=1000)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
    handle = store.jobs.get(job.id).handle
    assert context.executor.is_alive(handle), "trainers outlive the worker"
    store.jobs.cancel(job.id)
    with working(open_context(given, store)):
        wait_until(lambda: store.jobs.get(job.id).handle is None)
    assert not context.executor.is_alive(handle)


def test_the_next_worker_adopts_the_trainer_of_the_last(context, store, given):
    behave(given.home, step_seconds=0.15)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.metrics(job.id))
    before = store.jobs.get(job.id)
    assert before.status is JobStatus.RUNNING
    assert before.estimated_finish is None or before.estimated_finish >= before.created_at
    with working(open_context(given, store)):
        assert finished(store, job.id).attempt == 1
    assert_succeeded_once(store, given, job.id)


def test_estimated_finish_is_told_while_it_runs(context, store, given):
    behave(given.home, step_seconds=0.05, steps=400)
    job = submit(store)
    with working(context):
        wait_until(lambda: store.jobs.get(job.id).estimated_finish is not None)
        left_seconds = store.jobs.get(job.id).estimated_finish - time.time()
        assert 5 < left_seconds < 120
        store.jobs.cancel(job.id)
        assert store.jobs.get(job.id).estimated_finish is None
        wait_until(lambda: store.jobs.get(job.id).handle is None)


def test_jobs_run_one_after_the_other_in_order(context, store, given):
    behave(given.home, step_seconds=0.03)
    jobs = [submit(store) for _ in range(3)]
    assert jobs[2].waiting_behind == 2
    with working(context):
        most_running = 0
        while not all(store.jobs.get(job.id).status.is_terminal for job in jobs):
            states = [store.jobs.get(job.id).status for job in jobs]
            most_running = max(most_running, states.count(JobStatus.RUNNING))
            time.sleep(0.01)
    ends = [store.jobs.get(job.id) for job in jobs]
    assert [job.status for job in ends] == ["succeeded"] * 3
    assert most_running == 1
    order = [model.job_id for model in store.models.list()]
    assert order == [job.id for job in jobs]


def test_an_error_of_ours_fails_the_job_and_not_the_worker(context, store, given):
    bad, good = submit(store), None
    run = given.home / "runs" / bad.id
    run.parent.mkdir(exist_ok=True)
    run.write_text("a file where a folder should be")
    with working(context):
        done = finished(store, bad.id)
        good = submit(store)
        assert finished(store, good.id).status is JobStatus.SUCCEEDED
    assert (done.status, done.error.code) == (JobStatus.FAILED, "server_error")
    assert "/" not in done.error.message


def worker_process(given, point="", marker=None):
    failpoint = f"{point}:{marker}" if point else ""
    environment = {
        **os.environ,
        "SINTONIA_HOME": str(given.home),
        "SINTONIA_FAILPOINT": failpoint,
        "SINTONIA_LEASE_SECONDS": "0.9",
        "SINTONIA_MIN_FREE_BYTES": "0",
    }
    script = Path(__file__).with_name("worker_process.py")
    return subprocess.Popen([sys.executable, str(script)], env=environment)


def kill_worker_at(given, point, folder):
    worker = worker_process(given, point, folder / f"marker-{point}")
    assert worker.wait(40) == -signal.SIGKILL, point


def test_a_job_survives_a_kill_of_the_worker_at_each_of_its_points(store, given, tmp_path):
    behave(given.home, every={"wait_at": 3})
    job = submit(store)
    for point in ("claim", "claim@2", "launch", "heartbeat"):
        kill_worker_at(given, point, tmp_path)
    (given.home / "go").touch()
    for point in ("import.commit", "settle.model", "settle.result", "settle.commit"):
        kill_worker_at(given, point, tmp_path)
    worker = worker_process(given)
    try:
        assert finished(store, job.id).attempt == 1, "no trainer was lost"
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
    assert_succeeded_once(store, given, job.id)
    store.files.sweep(0)
    assert len(list((given.home / "files").iterdir())) == 2


def test_a_worker_that_slept_through_its_lease_writes_nothing(store, given):
    behave(given.home, step_seconds=0.2)
    job = submit(store)
    sleeper = worker_process(given)
    wait_until(lambda: store.jobs.metrics(job.id))
    sleeper.send_signal(signal.SIGSTOP)
    try:
        with working(open_context(given, store)):
            finished(store, job.id)
            sleeper.send_signal(signal.SIGCONT)
            time.sleep(0.5)
            other = submit(store)
            finished(store, other.id)
    finally:
        sleeper.send_signal(signal.SIGCONT)
        sleeper.terminate()
        assert sleeper.wait(20) == 0
    assert store.jobs.get(job.id).attempt == 1
    assert texts(store, job.id).count("The job has successfully completed") == 1
    store.models.delete(store.jobs.get(other.id).fine_tuned_model)
    store.files.delete(store.jobs.get(other.id).result_files[0])


def test_the_next_job_waits_for_the_trainer_of_a_worker_that_died(store, given):
    behave(given.home, every={"wait_at": 3})
    first = submit(store)
    worker = worker_process(given)
    wait_until(lambda: store.jobs.metrics(first.id))
    second = submit(store)
    wait_until(lambda: store.jobs.get(second.id).status is JobStatus.QUEUED)
    worker.kill()
    worker.wait(20)
    with working(open_context(given, store)):
        wait_until(store.queue.leases)
        time.sleep(2 * given.lease_seconds)
        states = [store.jobs.get(job.id).status for job in (first, second)]
        (given.home / "go").touch()
        assert states == [JobStatus.RUNNING, JobStatus.QUEUED]
        assert [finished(store, job.id).attempt for job in (first, second)] == [1, 1]


def test_the_worker_ends_when_its_parent_is_gone(given):
    environment = {**os.environ, "SINTONIA_HOME": str(given.home)}
    command = [sys.executable, "-m", "sintonia.jobs.worker"]
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    wait_until((given.home / "sintonia.db").exists)
    assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(20) == 0


def test_a_full_disk_lets_the_job_wait(context, store, given, tmp_path):
    small = replace(given, min_free_bytes=2**62)
    full_store = Store.open(small)
    job = submit(store)
    with working(open_context(small, full_store)):
        wait_until(lambda: "The disk is full" in texts(store, job.id)[-1])
        assert not store.jobs.get(job.id).status.is_terminal
    full_store.close()
    claim = store.queue.claim(Stage.RUNNING, "w", 5)
    assert claim is None, "it waits before it is tried again"
    for lease in store.queue.leases():
        store.queue.expire(lease)


def test_importing_the_worker_loads_no_torch():
    script = "import sys, sintonia.jobs.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("number", [2])
def test_several_trainers_run_at_once_when_asked(given, store, number):
    behave(given.home, step_seconds=0.1)
    given = replace(given, trainers=number)
    jobs = [submit(store) for _ in range(number)]
    with working(open_context(given, store)):
        wait_until(
            lambda: [store.jobs.get(job.id).status for job in jobs].count("running") == number
        )
        for job in jobs:
            finished(store, job.id)


def test_uploading_is_possible_while_jobs_run(context, store, given):
    behave(given.home, step_seconds=0.02)
    job = submit(store)
    with working(context):
        threads = [threading.Thread(target=upload, args=(store, b"x" * 100)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert finished(store, job.id).status is JobStatus.SUCCEEDED
    assert len(store.files.list().items) == 10
