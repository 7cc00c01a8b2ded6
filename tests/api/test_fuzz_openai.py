"""Requests made from OpenAI's description of what we claim: no fault, no answer of another form.

Ids in paths and bodies are mostly those of things that exist, so that calls get past the 404.
``FUZZ_EXAMPLES`` says how many for each operation and kind; ``make fuzz`` asks for many.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from urllib.parse import quote

import pytest
import requests
import schemathesis
from api_calls import register_tuned, upload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from conformance import differences, spec

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
FACTS = spec.load()
ENTRIES = differences.listed()
MODEL = "gpt-tiny"
MESSAGE = {"role": "user", "content": "a"}
CHECKPOINTS = "/v1/fine_tuning/checkpoints"
NEVER = {409, 422}
"""Statuses that clients retry, or that OpenAI does not use."""


class Things:
    """Makes what a request can name; each call gets one of its own, which it may use up."""

    def __init__(self, client, services):
        self._client = client
        self._services = services
        self._tuned = 0

    def file_id(self):
        return upload(self._client)["id"]

    def upload_id(self):
        body = {"bytes": 3, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
        return self._post("uploads", body)

    def fine_tuning_job_id(self):
        return self._post("fine_tuning/jobs", {"model": MODEL, "training_file": self.file_id()})

    def input_file_id(self):
        return upload(self._client, b"{}", "batch")["id"]

    def batch_id(self):
        body = {"input_file_id": self.input_file_id(), "completion_window": "24h"}
        return self._post("batches", {**body, "endpoint": "/v1/completions"})

    def model(self):
        self._tuned += 1
        return register_tuned(self._services, f"ft:tiny:personal::{self._tuned:08}")

    def completion_id(self):
        body = {"model": MODEL, "messages": [MESSAGE], "store": True, "max_tokens": 1}
        return self._post("chat/completions", body)

    def permission_id(self):
        body = {"project_ids": ["proj_a"]}
        answer = self._client.post(f"{CHECKPOINTS}/{self.model()}/permissions", json=body)
        return answer.json()["data"][0]["id"] if answer.status_code == 200 else "cp_none"

    training_file = validation_file = file_id
    fine_tuned_model_checkpoint = model

    def _post(self, path, body):
        answer = self._client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]


@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_one_that_openai_describes(client, services, mode):
    document = json.loads(spec.FACTS.read_text(encoding="utf-8"))
    schema = schemathesis.openapi.from_dict(document)
    things = Things(client, services)
    statuses = Counter()
    for found in schema.get_all_operations():
        statuses += statuses_of(found.ok(), mode, client, things)
    told = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    print(f"{statuses.total()} {mode.value} cases: {told}")  # noqa: T201
    if mode is GenerationMode.POSITIVE:
        assert statuses[200] > statuses.total() // 5, "too few requests got past their refusal"


def statuses_of(operation, mode, client, things) -> Counter:
    """Try an operation; return how it answered."""
    named = spec.Operation(operation.method.upper(), operation.path)
    statuses = Counter()

    @given(case=operation.as_strategy(generation_mode=mode), is_known=st.integers(0, 3).map(bool))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES < 100,
        suppress_health_check=list(HealthCheck),
    )
    def answers(case, is_known):
        if is_known:
            name_what_exists(case, things)
        answer = send(client, case)
        statuses[answer.status_code] += 1
        check(named, answer)

    with suppress(Unsatisfiable):  # nothing about it can be wrong
        answers()
    return statuses


def name_what_exists(case, things) -> None:
    """Put ids of things that are there in place of made-up ones."""
    for name in case.path_parameters:
        case.path_parameters[name] = quote(getattr(things, name)(), safe="")
    if not isinstance(case.body, dict):
        return
    for name in ("training_file", "validation_file", "input_file_id"):
        if isinstance(case.body.get(name), str):
            case.body[name] = getattr(things, name)()
    if isinstance(case.body.get("model"), str):
        case.body["model"] = MODEL


def send(client, case):
    """Send a case, to the byte as the library would."""
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1:8000/v1"))
    made = sent.prepare()
    return client.request(made.method, made.url, headers=dict(made.headers), content=made.body)


def check(operation, answer) -> None:
    """Hold an answer against the description."""
    told = f"{operation}: {answer.status_code} {answer.text[:500]}"
    assert answer.status_code < 500, told
    assert answer.status_code not in NEVER, told
    kind = answer.headers.get("content-type", "").partition(";")[0]
    for value in values_of(answer, kind):
        wanted = FACTS.answer_schema(operation, answer.status_code, kind)
        assert wanted is not None, told
        found = FACTS.departures(wanted, value, str(operation))
        assert not differences.unlisted(found, ENTRIES), (told, found)


def values_of(answer, kind):
    """Return the JSON of an answer, or of each chunk of a stream."""
    if kind == "application/json":
        return [answer.json()]
    if kind != "text/event-stream":
        return []
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]
