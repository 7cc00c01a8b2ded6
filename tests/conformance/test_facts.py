"""What the suite itself rests on: the facts, how departures are found, the lists, the table."""

from __future__ import annotations

import copy
import json
import re

import pytest

from conformance import differences, report, spec
from conformance.reduce_spec import is_claimed, reduce
from conformance.spec import Departure, Operation

DOCUMENT = json.loads(spec.FACTS.read_text(encoding="utf-8"))
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 1,
    "created_at": 1,
    "filename": "a",
    "purpose": "batch",
    "status": "processed",
}
PAGE = {"object": "list", "data": [FILE], "first_id": "a", "last_id": "a", "has_more": False}
LISTING = Operation("GET", "/files")


def departures(value, operation=LISTING, status=200):
    facts = spec.load()
    schema = facts.answer_schema(operation, status, "application/json")
    return {str(one) for one in facts.departures(schema, value, f"{operation} {status}")}


def with_file(**changes):
    file = {**FILE, **changes}
    return {**PAGE, "data": [{k: v for k, v in file.items() if v is not ...}]}


def test_an_answer_as_the_specification_has_it_departs_nowhere():
    assert departures(PAGE) == set()
    assert departures(with_file(status_details="fine", expires_at=5)) == set()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (with_file(colour="red"), "OpenAIFile.colour: unknown"),
        (with_file(bytes=...), "OpenAIFile.bytes: missing"),
        (with_file(bytes="1"), "OpenAIFile.bytes: a string"),
        (with_file(filename=None), "OpenAIFile.filename: null"),
        (with_file(status="pending"), "OpenAIFile.status: value 'pending'"),
        ({**PAGE, "next": 1}, "ListFilesResponse.next: unknown"),
        ({**PAGE, "data": [1]}, "ListFilesResponse.data[]: an integer"),
    ],
)
def test_each_kind_of_departure_is_found_and_named(value, told):
    assert told in departures(value)


def test_a_departure_inside_a_union_is_that_of_the_branch_that_was_meant():
    job = {"error": {"code": None, "message": "m", "param": None}}
    found = departures(job, Operation("GET", "/fine_tuning/jobs/{fine_tuning_job_id}"))
    assert "FineTuningJob.error.code: null" in found
    assert not [one for one in found if one.startswith("FineTuningJob.error:")]


def test_an_error_must_have_the_envelope():
    whole = {"error": {"message": "m", "type": "t", "param": None, "code": None}}
    assert departures(whole, status=404) == set()
    assert departures({"detail": "Not Found"}, status=404) == {
        "ErrorResponse.error: missing",
        "ErrorResponse.detail: unknown",
    }


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/files/file-1/content", "/files/{file_id}/content"),
        ("/models/ft:a:b::c", "/models/{model}"),
        ("/models/acme/tiny", "/models/{model}"),
        ("/fine_tuning/jobs", "/fine_tuning/jobs"),
        (
            "/fine_tuning/checkpoints/ft:a/b:c::d/permissions",
            "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions",
        ),
    ],
)
def test_a_call_is_told_from_its_path(path, template):
    assert spec.load().operation("GET", path) == Operation("GET", template)


def test_every_claimed_operation_is_checked_by_some_test(request, is_whole):
    if not is_whole:
        pytest.skip("only a part of the suite was asked for")
    items = [item for item in request.session.items if item.path.name != "test_answers.py"]
    marked = {mark.args[0] for item in items for mark in item.iter_markers("endpoint")}
    assert {str(o) for o in spec.load().operations} <= marked


def test_the_facts_hold_no_prose_and_name_their_source():
    text = spec.FACTS.read_text(encoding="utf-8")
    assert DOCUMENT["info"]["x-source"]["commit"] == "f85dbe2"
    assert all(is_claimed(path) for path in DOCUMENT["paths"])
    for sign in ("x-oaiMeta", '"example', '"summary"', "platform.openai.com"):
        assert sign not in text


def test_every_reference_in_the_facts_leads_to_a_schema_and_none_is_unused():
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    names = set(DOCUMENT["components"]["schemas"])
    assert refs == names - {spec.ERROR_SCHEMA} or refs == names


def test_reducing_drops_prose_merges_and_brings_old_spellings_up_to_date():
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"type": "object", "required": ["b"], "properties": {"b": {"nullable": True}}},
        ]
    }
    base = {
        "type": "object",
        "description": "Prose.",
        "required": ["a"],
        "properties": {
            "a": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "example": 1},
            "description": {"type": "string", "description": "A field of that name."},
        },
    }
    answer = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    document = {
        "info": {"version": "1", "description": "Prose."},
        "paths": {
            "/files": {"get": {"operationId": "x", "summary": "P", "responses": {"200": answer}}},
            "/videos": {"get": {}},
        },
        "components": {"schemas": {"Base": base, "ErrorResponse": {"type": "object"}}},
    }
    before = copy.deepcopy(document)
    facts = reduce(document)
    assert document == before
    assert list(facts["paths"]) == ["/files"]
    found = facts["paths"]["/files"]["get"]["responses"]["200"]["content"]["application/json"]
    assert found["schema"] == {
        "type": "object",
        "required": ["a", "b"],
        "properties": {
            "a": {"type": "number", "exclusiveMinimum": 0},
            "description": {"type": "string"},
            "b": {"anyOf": [{}, {"type": "null"}]},
        },
    }


def test_every_listed_difference_says_why_and_is_listed_once():
    entries = differences.listed()
    places = [(entry.where, entry.what) for entry in entries]
    assert len(places) == len(set(places))
    assert all(len(entry.why) > 20 for entry in entries)


def test_a_departure_is_covered_by_its_own_entry_alone():
    entry = differences.Difference("A.b", "unknown", "because")
    assert entry.covers(Departure("A.b", "unknown"))
    assert not entry.covers(Departure("A.b", "missing"))
    assert not entry.covers(Departure("A.b.c", "unknown"))
    star = differences.Difference("A.b.*", "unknown", "because")
    assert star.covers(Departure("A.b.c", "unknown"))
    assert not star.covers(Departure("A.c", "unknown"))
    any_value = differences.Difference("A.b", "value *", "because")
    assert any_value.covers(Departure("A.b", "value 'c'"))
    assert not any_value.covers(Departure("A.b", "null"))


def test_the_table_tells_each_row_what_failed_and_why_something_was_skipped():
    checks = [
        report.Check("GET /a", "works", report.PASSED),
        report.Check("GET /a", "fails", report.FAILED),
        report.Check("GET /b", "waits", report.SKIPPED, "not there: GET /b"),
    ]
    rows = report.rows_of(["GET /a", "GET /b", "GET /c"], checks, {"GET /a": 4})
    table = report.as_markdown(rows)
    assert "| `GET /a` | 4 | 1 | 1 | 0 | fails |" in table
    assert "| `GET /b` |  | 0 | 0 | 1 | not there: GET /b |" in table
    assert "| `GET /c` |  | 0 | 0 | 0 |  |" in table
    assert "1 checks passed, 1 failed, 1 skipped" in report.as_text(rows)
    assert json.loads(report.as_json(rows, {}))["rows"][0]["checks"][1]["outcome"] == "failed"


def test_the_documentation_has_the_same_list_of_differences():
    page = (spec.FACTS.parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    section = page.partition("## Deliberate differences")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{e.where}` | {e.what} | {e.why} |" for e in differences.listed()]
