"""Requests made from the API's own OpenAPI document: no fault, no answer that it does not know.

``FUZZ_EXAMPLES`` says how many for each operation and kind; ``make fuzz`` asks for many.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from sintonia.api.app import create_app
from sintonia.api.openapi import PATH

HOST = {"host": "127.0.0.1"}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CHECKS_OF = {
    GenerationMode.POSITIVE: CHECKS,
    GenerationMode.NEGATIVE: [*CHECKS, negative_data_rejection],
}


@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("mode", CHECKS_OF, ids=lambda mode: mode.value)
def test_every_operation_answers_as_the_document_says(services, mode):
    schema = schemathesis.openapi.from_asgi(PATH, create_app(services), headers=HOST)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 20
    num_cases = sum(cases_of(operation, mode) for operation in operations)
    print(f"{num_cases} {mode.value} cases over {len(operations)} operations")  # noqa: T201


def cases_of(operation, mode) -> int:
    """Try an operation; return in how many cases."""
    num_cases = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answers(case):
        nonlocal num_cases
        num_cases += 1
        checks = CHECKS_OF[mode] if arrives_whole(case) else CHECKS
        case.call_and_validate(checks=checks, headers=HOST)

    with suppress(Unsatisfiable):  # nothing about it can be wrong
        answers()
    return num_cases


def arrives_whole(case) -> bool:
    """Tell whether all that is wrong with a case is sent: a form has no words for an empty list."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return True
    return all(value not in ([], {}) for value in case.body.values())
