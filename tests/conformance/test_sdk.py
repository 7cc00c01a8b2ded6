"""The matrix: every scenario through every client library, each script in a process of its own.

The newest library runs with all tests. The others need ``make conformance``, which makes their
environments.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from conformance.environments import CLIENTS, Client

_NOT_HANDED_ON = ("OPENAI_", "AZURE_OPENAI_", "PYTHONPATH")
"""What would tell a library of another server, or put our packages before its own."""


def cases():
    for client in CLIENTS:
        marks = [pytest.mark.sdk(client.name)]
        if client.folder:
            marks.append(pytest.mark.slow)
        for script, scenario in client.scenarios():
            name = f"{client.name}-{scenario}"
            yield pytest.param(client, script, scenario, marks=marks, id=name)


@pytest.fixture(scope="module")
def runs():
    """What each script said, once it has run."""
    return {}


def outcomes(client: Client, script: str, target, seconds: float) -> dict[str, dict]:
    """Run a script and return its lines by scenario."""
    done = subprocess.run(
        client.command(script, target.base_url, target.api_key, target.model, seconds),
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
        env={k: v for k, v in os.environ.items() if not k.startswith(_NOT_HANDED_ON)},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["scenario"]: line for line in lines} | {"": {"detail": done.stderr[-2000:]}}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("client", "script", "scenario"), list(cases()))
def test_sdk(runs, target, job_seconds, client, script, scenario):
    if not client.is_made:
        pytest.skip("its environment is not made: make conformance")
    run = (client.name, script)
    if run not in runs:
        runs[run] = outcomes(client, script, target, job_seconds)
    line = runs[run].get(scenario)
    assert line is not None, runs[run][""]["detail"]
    if line["ok"] is None:
        is_absent = line["detail"].startswith("not there")
        pytest.skip(f"not there: {scenario}" if is_absent else line["detail"])
    assert line["ok"], line["detail"]
