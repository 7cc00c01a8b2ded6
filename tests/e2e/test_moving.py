"""From one live server into the home of another: killed on the way, and trained again there."""

from __future__ import annotations

import os
import subprocess
import sys

from live import LiveServer, create_job, home_with_tiny, wait_for_job

ENVIRONMENT = {"SINTONIA_ENGINE": "echo", "SINTONIA_THREADS": "1"}


def command(home, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sintonia.cli", *arguments],
        env={**os.environ, **ENVIRONMENT, **environment, "SINTONIA_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def told(client, job_id: str) -> tuple:
    """Return all that a server tells of a job, its result files' content too."""
    jobs = client.fine_tuning.jobs
    job = jobs.retrieve(job_id)
    shown = job.model_dump(exclude={"sintonia"})
    events = [event.model_dump() for event in jobs.list_events(job_id, limit=7)]
    checkpoints = [c.model_dump() for c in jobs.checkpoints.list(job_id, limit=1)]
    files = [job.training_file, job.validation_file, *job.result_files]
    contents = [(client.files.retrieve(f), client.files.content(f).read()) for f in files]
    return shown, events, checkpoints, contents


def test_a_job_moves_and_its_old_name_goes_on(tiny_home, tmp_path):
    source = LiveServer(home_with_tiny(tiny_home, tmp_path / "there"), ENVIRONMENT).start()
    here = home_with_tiny(tiny_home, tmp_path / "here")
    target = None
    try:
        asked = create_job(source.client, metadata={"team": "a"})
        job = wait_for_job(source.client, asked.id)
        assert job.status == "succeeded", job.error
        url = f"{source.record()['url']}/v1"
        move = ("migrate", "openai", "--base-url", url)
        killed = command(here, *move, SINTONIA_FAILPOINT=f"migrate.file@3:{tmp_path / 'marker'}")
        assert killed.returncode == -9, killed.stderr
        moved = command(here, *move)
        assert moved.returncode == 0, moved.stderr

        target = LiveServer(here, ENVIRONMENT).start()
        assert told(target.client, job.id) == told(source.client, job.id)

        again = command(here, "migrate", "rerun", job.id, "--take-name")
        assert again.returncode == 0, again.stderr
        new = target.client.fine_tuning.jobs.list(limit=1).data[0]
        assert new.metadata == {"team": "a", "rerun_of": job.id}
        new = wait_for_job(target.client, new.id)
        assert (new.seed, new.method) == (job.seed, job.method)
        answer = target.client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.model == new.fine_tuned_model
        nobody = command(here, "migrate", "rerun", "ftjob-nobody")
        assert (nobody.returncode, nobody.stderr[:26]) == (1, "Error: Job ftjob-nobody is")
        assert "0 of 0 jobs" in command(here, "migrate", "rerun", "--all").stdout
    finally:
        source.stop()
        if target is not None:
            target.stop()
