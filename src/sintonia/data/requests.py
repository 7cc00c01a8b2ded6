r"""Files of requests, for batches: checked whole before any of it runs, then read line by line.

A line is ``{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}``. Files are streamed
and memory is flat: of a line that was read, a hash of its ``custom_id`` stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from sintonia.data.problems import ProblemLog, json_type, quoted
from sintonia.data.reader import JsonlReader, Row
from sintonia.domain.batches import BatchProblem

MAX_REQUESTS = 50_000
"""OpenAI's limit."""
MAX_INPUT_BYTES = 200 * 1024 * 1024
"""OpenAI's limit of a file."""
MAX_PROBLEMS_TOLD = 100

METHOD = "POST"
_KEYS: Mapping[str, type] = {"custom_id": str, "method": str, "url": str, "body": dict}


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One request of a file that passed the check."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class RequestsReport:
    """What a check found."""

    num_requests: int
    model: str | None
    """The one model of all lines; ``None`` when no line names one."""
    model_line: int
    """The first line that names it."""
    problems: tuple[BatchProblem, ...]
    """The first ones; a last one without a line says how many more there are."""


def digest_of(custom_id: str) -> bytes:
    """Return what stands for a ``custom_id`` in memory: 16 bytes that no other one has."""
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


def check_requests(
    file: BinaryIO,
    endpoint: str,
    *,
    is_called_off: Callable[[], bool] = lambda: False,
    max_requests: int = MAX_REQUESTS,
) -> RequestsReport | None:
    """Check every line of a file; ``None`` when it was called off on the way."""
    unreadable = ProblemLog()
    check = _Check(endpoint)
    for row in JsonlReader(file, unreadable):
        if is_called_off():
            return None
        check.take(row, unreadable)
        if row.number > max_requests:
            check.add(_too_many(max_requests))
            break
    check.take_unreadable(unreadable)  # what is no JSON Lines at all has no rows
    return check.report()


def iter_requests(file: BinaryIO) -> Iterator[RequestLine]:
    """Yield the requests of a file that passed the check, in order."""
    for row in JsonlReader(file, ProblemLog()):
        assert row.value is not None, "the file passed the check"
        yield RequestLine(row.value["custom_id"], row.value["body"])


class _Check:
    """The check of one file."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._problems: list[BatchProblem] = []
        self._num_problems = 0
        self._num_requests = 0
        self._seen: set[bytes] = set()
        self._model: str | None = None
        self._model_line = 0

    def add(self, problem: BatchProblem) -> None:
        """Count a problem, and keep it while there is room."""
        self._num_problems += 1
        if len(self._problems) < MAX_PROBLEMS_TOLD:
            self._problems.append(problem)

    def take(self, row: Row, unreadable: ProblemLog) -> None:
        """Check one line."""
        self._num_requests += 1
        if row.value is None:
            self.take_unreadable(unreadable)
            return
        for problem in self._problems_of(row.value, row.line):
            self.add(problem)

    def take_unreadable(self, log: ProblemLog) -> None:
        """Move what the reader could not read from its log to here."""
        for problem in log.kept:
            message = f"This line is not parseable as valid JSON. {problem.message}"
            self.add(BatchProblem("invalid_json_line", message, None, problem.line))
        log.kept.clear()

    def report(self) -> RequestsReport:
        """Return what was found."""
        if not self._num_requests and not self._num_problems:
            self.add(
                BatchProblem(
                    "empty_file",
                    "The batch input file is empty. Put at least one request into it, each an "
                    "object on a line of its own.",
                )
            )
        told, rest = list(self._problems), self._num_problems - len(self._problems)
        if rest:
            message = f"And {rest:,} more problems. Mend those that are told first."
            told.append(BatchProblem("more_problems", message))
        return RequestsReport(self._num_requests, self._model, self._model_line, tuple(told))

    def _problems_of(self, value: dict[str, Any], line: int) -> Iterator[BatchProblem]:
        sound = {}
        for key, kind in _KEYS.items():
            problem = _problem_of_key(value.get(key), key, kind, line)
            if problem is None:
                sound[key] = value[key]
            else:
                yield problem
        for key in value.keys() - _KEYS.keys():
            yield _unknown_key(key, line)
        for key, rule in self._rules().items():
            if key in sound and (broken := rule(sound[key], line)) is not None:
                yield broken

    def _rules(self) -> Mapping[str, Callable[[Any, int], BatchProblem | None]]:
        return {
            "custom_id": self._check_custom_id,
            "method": self._check_method,
            "url": self._check_url,
            "body": self._check_body,
        }

    def _check_custom_id(self, custom_id: str, line: int) -> BatchProblem | None:
        digest = digest_of(custom_id)
        if digest in self._seen:
            return BatchProblem(
                "duplicate_custom_id",
                f"The custom_id {quoted(custom_id)} is that of an earlier line too. It must be "
                "unique for each request in a batch.",
                "custom_id",
                line,
            )
        self._seen.add(digest)
        return None

    def _check_method(self, method: str, line: int) -> BatchProblem | None:
        if method == METHOD:
            return None
        message = f"Invalid value for 'method': {quoted(method)}. Supported values are: 'POST'."
        return BatchProblem("invalid_value", message, "method", line)

    def _check_url(self, url: str, line: int) -> BatchProblem | None:
        if url == self._endpoint:
            return None
        return BatchProblem(
            "url_mismatch",
            f"The url {quoted(url)} is not the endpoint of this batch, {self._endpoint}. All "
            "requests of a batch go to one endpoint; make a batch for each.",
            "url",
            line,
        )

    def _check_body(self, body: dict[str, Any], line: int) -> BatchProblem | None:
        if body.get("stream"):
            message = "Parameter stream: a batch answers whole. Leave it out."
            return BatchProblem("unsupported_parameter", message, "body.stream", line)
        model = body.get("model")
        problem = _problem_of_key(model, "body.model", str, line)
        if problem is not None:
            return problem
        if self._model is None:
            self._model, self._model_line = model, line
        if model == self._model:
            return None
        return BatchProblem(
            "model_mismatch",
            f"The model {quoted(model)} is not that of line {self._model_line}, "
            f"{quoted(self._model)}. All requests of a batch have one model; make a batch for "
            "each.",
            "body.model",
            line,
        )


def _problem_of_key(value: Any, param: str, kind: type, line: int) -> BatchProblem | None:
    """Return what is wrong with a required value; ``null`` counts as missing."""
    if value is None or value == "":
        message = f"Missing required parameter: '{param}'."
        return BatchProblem("missing_required_parameter", message, param, line)
    if isinstance(value, kind):
        return None
    expected = "a string" if kind is str else "an object"
    message = f"Invalid type for '{param}': expected {expected}, but got {_named(value)} instead."
    return BatchProblem("invalid_type", message, param, line)


def _named(value: Any) -> str:
    name = json_type(value)
    return f"an {name}" if name in {"array", "object"} else f"a {name}"


def _unknown_key(key: str, line: int) -> BatchProblem:
    shown = quoted(key)[1:-1]
    return BatchProblem(
        "unknown_parameter",
        f"Unknown parameter: '{shown}'. A request has custom_id, method, url and body.",
        shown,
        line,
    )


def _too_many(max_requests: int) -> BatchProblem:
    return BatchProblem(
        "too_many_tasks",
        f"The batch input file has more than {max_requests:,} requests, the most in one batch. "
        "Split it.",
    )
