"""From stored completions to a training file in one call, over HTTP."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from api_calls import error_of

from sintonia.api.distilling import distill
from sintonia.api.schemas.distillations import DistillationRequest
from sintonia.data.validate import validate
from sintonia.domain.stored_completions import StoredCompletion
from sintonia.errors import PayloadTooLarge
from sintonia.store.tables import COMPLETIONS

PATH = "/v1/sintonia/distillations"
NOW = int(time.time())
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def answer(text: str | None, reason: str = "stop", **message) -> dict:
    said = {"role": "assistant", "content": text, "refusal": None, **message}
    return {"index": 0, "message": said, "finish_reason": reason, "logprobs": None}


def keep(services, number: int, *choices: dict, **changes) -> str:
    """Store a completion as the server would have."""
    given = {
        "id": f"chatcmpl-{number}",
        "created_at": NOW + number,
        "expires_at": NOW + 10_000,
        "model": "big",
        "request": {"messages": [{"role": "user", "content": f"say {number}"}]},
        "answer": {"choices": list(choices) or [answer(f"it is {number}")]},
        **changes,
    }
    services.store.completions.add(StoredCompletion(**given))
    return given["id"]


def made(client, **body) -> dict:
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def rows_of(client, file: dict) -> list[dict]:
    content = client.get(f"/v1/files/{file['id']}/content").text
    return [json.loads(line) for line in content.splitlines()]


def said(client, file: dict) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows_of(client, file)]


def files(client) -> list[str]:
    return [file["id"] for file in client.get("/v1/files").json()["data"]]


def test_real_answers_become_a_file_that_is_valid(client, services):
    for number in range(12):
        messages = [{"role": "user", "content": f"say {number}"}]
        body = {"model": "gpt-tiny", "messages": messages, "store": True}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    result = made(client, model="gpt-tiny", filename="from-tiny.jsonl")
    file = result.pop("training_file")
    assert result.pop("created_at") >= NOW
    assert result == {
        "object": "distillation",
        "validation_file": None,
        "counts": {"matched": 12, "written": 12, "training": 12, "validation": 0, "left_out": {}},
        "job": None,
    }
    assert file == client.get(f"/v1/files/{file['id']}").json()
    expected = ("fine-tune", "processed", "from-tiny.jsonl")
    assert (file["purpose"], file["status"], file["filename"]) == expected
    assert validate(
        Path(services.store.files.location(file["id"]).removeprefix("file://"))
    ).is_valid
    assert rows_of(client, file)[0]["messages"] == [
        {"role": "user", "content": "say 0"},
        {"role": "assistant", "content": "user\nsay 0"},
    ]


def test_filters_choose_what_is_learned(client, services):
    keep(services, 1, metadata={"task": "sum"})
    keep(services, 2, metadata={"task": "sum"}, model="other")
    keep(services, 3, metadata={"task": "poem"})
    for body, numbers in (
        ({}, [1, 2, 3]),
        ({"model": "big"}, [1, 3]),
        ({"metadata": {"task": "sum"}}, [1, 2]),
        ({"model": "big", "metadata": {"task": "sum"}}, [1]),
        ({"created_after": NOW + 2}, [2, 3]),
        ({"created_before": NOW + 2}, [1]),
        ({"ids": ["chatcmpl-3", "chatcmpl-none"]}, [3]),
        ({"limit": 2}, [2, 3]),
    ):
        result = made(client, **body)
        assert said(client, result["training_file"]) == [f"it is {n}" for n in numbers], body
        assert result["counts"]["matched"] == len(numbers)


def test_what_is_not_to_be_learned_is_left_out_and_counted(client, services):
    broken = {**CALL, "function": {"name": "f", "arguments": "{"}}
    keep(services, 1)
    keep(services, 2, answer("it goes on and", "length"))
    keep(services, 3, answer(""))
    keep(services, 4, answer(None, "tool_calls", tool_calls=[broken]))
    counts = made(client)["counts"]
    assert (counts["matched"], counts["written"]) == (4, 1)
    assert counts["left_out"] == {"cut_off": 1, "empty": 1, "invalid": 1}


def test_an_answer_that_calls_a_tool_teaches_the_call(client, services):
    request = {"messages": [{"role": "user", "content": "look"}], "tools": [TOOL]}
    keep(services, 1, answer(None, "tool_calls", tool_calls=[CALL]), request=request)
    (row,) = rows_of(client, made(client)["training_file"])
    assert row["tools"] == [TOOL]
    assert row["messages"][-1] == {"role": "assistant", "tool_calls": [CALL]}


def test_one_answer_of_a_completion_or_all(client, services):
    keep(services, 1, answer("a"), answer("b"), answer("c", "length"))
    assert said(client, made(client)["training_file"]) == ["a"]
    result = made(client, choices="all")
    assert said(client, result["training_file"]) == ["a", "b"]
    assert result["counts"]["left_out"] == {"cut_off": 1}


def test_duplicates_are_left_out_when_asked(client, services):
    for number in range(3):
        keep(
            services,
            number,
            answer("same"),
            request={"messages": [{"role": "user", "content": "x"}]},
        )
    keep(services, 3)
    assert made(client)["counts"]["written"] == 4
    counts = made(client, deduplicate=True)["counts"]
    assert (counts["written"], counts["left_out"]) == (2, {"duplicate": 2})


def test_the_validation_rows_are_chosen_by_the_seed_alone(client, services):
    for number in range(60):
        keep(services, number, answer(f"a{number}"), answer(f"b{number}"))
    split = {"validation_fraction": 0.25, "choices": "all"}

    def parts(**more) -> tuple[list[str], list[str]]:
        result = made(client, **split, **more)
        assert result["validation_file"]["filename"] == "validation-distilled.jsonl"
        both = [said(client, result[f"{kind}_file"]) for kind in ("training", "validation")]
        counts = result["counts"]
        assert (counts["training"], counts["validation"]) == (len(both[0]), len(both[1]))
        return both[0], both[1]

    training, validation = parts()
    assert parts(seed=0) == (training, validation)
    assert parts(seed=1) != (training, validation)
    assert sorted(training + validation) == sorted(f"{k}{n}" for k in "ab" for n in range(60))
    assert 10 <= len(validation) <= 50
    # Answers to one prompt go together: none is learned that is also asked.
    assert not {text[1:] for text in training} & {text[1:] for text in validation}
    keep(services, 60)
    later, _ = parts()
    assert [text for text in later if text != "it is 60"] == training


def test_a_split_that_leaves_one_part_empty_is_refused(client, services):
    keep(services, 1)
    response = client.post(PATH, json={"validation_fraction": 0.5})
    error_of(response, 400, "invalid_value", "validation_fraction")
    assert files(client) == []


def test_a_filter_that_matches_nothing_says_what_there_is(client, services):
    message = error_of(client.post(PATH, json={}), 400, "no_completions")
    assert "None is stored here" in message
    keep(services, 1)
    keep(services, 2, model="other")
    message = error_of(client.post(PATH, json={"model": "no"}), 400, "no_completions", "model")
    assert "1 of big, 1 of other" in message
    assert files(client) == []


def test_completions_of_which_none_can_be_learned_say_why(client, services):
    keep(services, 1, answer("a", "length"))
    message = error_of(client.post(PATH, json={}), 400, "no_completions")
    assert "1 cut_off" in message
    assert files(client) == []


@pytest.mark.parametrize("wish", [{"job": {"model": "tiny"}}, {"validation_fraction": 0.001}])
def test_too_few_rows_are_told_with_what_was_left_out(client, services, wish):
    for number in range(12):
        keep(services, number, answer("a", "length" if number % 4 else "stop"))
    response = client.post(PATH, json=wish)
    assert response.status_code == 400
    assert "(left out: 9 cut_off)" in response.json()["error"]["message"]


def test_a_job_begins_in_the_same_call(client, services):
    for number in range(40):
        keep(services, number)
    job = {"model": "tiny", "suffix": "mine", "metadata": {"a": "b"}, "seed": 3}
    result = made(client, validation_fraction=0.2, job=job)
    created = client.get(f"/v1/fine_tuning/jobs/{result['job']['id']}").json()
    assert created == result["job"]
    assert created["training_file"] == result["training_file"]["id"]
    assert created["validation_file"] == result["validation_file"]["id"]
    assert (created["user_provided_suffix"], created["seed"]) == ("mine", 3)
    assert len(files(client)) == 2


@pytest.mark.parametrize(
    ("job", "code", "param"),
    [
        ({"model": "nobody"}, "model_not_available", "job.model"),
        ({}, "missing_required_parameter", "job.model"),
        ({"model": "tiny", "colour": "red"}, "unknown_parameter", "job.colour"),
        ({"model": "tiny", "seed": -1}, "integer_below_min_value", "job.seed"),
        ({"model": "tiny", "training_file": "file-a"}, "invalid_value", "job.training_file"),
        ({"model": "tiny", "validation_file": "file-a"}, "invalid_value", "job.validation_file"),
    ],
)
def test_a_bad_job_leaves_no_file_and_names_its_parameter(client, services, job, code, param):
    for number in range(40):
        keep(services, number)
    response = client.post(PATH, json={"job": job, "validation_fraction": 0.2})
    error_of(response, 400, code, param)
    assert files(client) == []
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_a_job_needs_enough_rows(client, services):
    for number in range(9):
        keep(services, number)
    message = error_of(client.post(PATH, json={"job": {"model": "tiny"}}), 400, None, "job")
    assert message.startswith("9 rows would be for training; a job needs at least 10.")
    assert files(client) == []
    assert made(client)["counts"]["written"] == 9


def test_the_same_key_gives_the_same_files(client, services):
    keep(services, 1)
    headers = {"Idempotency-Key": "k"}
    first, second = (client.post(PATH, json={}, headers=headers).json() for _ in range(2))
    assert first == second
    assert len(files(client)) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"ids": []}, "ids"),
        ({"limit": 0}, "limit"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"choices": "best"}, "choices"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"filename": ""}, "filename"),
        ({"job": "tiny"}, "job"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(client, body, param):
    response = client.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_file_past_the_limit_leaves_nothing(client, services):
    for number in range(3):
        keep(services, number, answer("x" * 100_000))
    error_of(client.post(PATH, json={}), 413, "file_too_large", "file")
    assert files(client) == []


def test_many_completions_are_distilled_in_flat_memory(services):
    (services.settings.home / "uploads").mkdir()
    # The rows are 20 MB, past the limit of a file here, so all of them are
    # written before that is told.
    text = "x" * 4000
    with services.store.completions._database.write() as connection:
        rows = [
            {
                "id": f"chatcmpl-{number}",
                "created_at": NOW,
                "expires_at": NOW + 10_000,
                "model": "big",
                "request": {"messages": [{"role": "user", "content": f"say {number}"}]},
                "answer": {"choices": [answer(text)]},
                "metadata": {},
            }
            for number in range(5000)
        ]
        connection.execute(COMPLETIONS.insert(), rows)
    del rows
    request = DistillationRequest(deduplicate=True, validation_fraction=0.5)
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        distill(request, services)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A hash of each row is kept to know duplicates by.
    digest_bytes = 5000 * (sys.getsizeof(b"x" * 16) + 64)
    assert peak_bytes < 4 * 10**6 + digest_bytes
