"""What crosses the socket comes out as it went in."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import pytest

from sintonia import errors
from sintonia.generation import wire
from sintonia.generation.base import (
    EngineStatus,
    FinishReason,
    GenerationRequest,
    ModelRef,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
)
from sintonia.settings import Settings

REQUEST = GenerationRequest(
    id="r",
    model=ModelRef("base", "a" * 64, "adapter", "b" * 64),
    prompt_ids=(1, 2, 3),
    sampling=SamplingParams(
        5,
        temperature=0.7,
        top_p=0.9,
        seed=-3,
        stop_token_ids=(7, 8),
        frequency_penalty=0.5,
        presence_penalty=-1.0,
        logit_bias=((7, -100.0), (8, 2.5)),
        top_logprobs=5,
        prompt_logprobs=True,
    ),
)
ERRORS = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.SintoniaError)
    and found is not errors.RemoteError  # what a client makes of an HTTP answer, never an engine's
]


def over_the_wire(value):
    return wire.decode_line(wire.encode_line({"value": value}))["value"]


def test_requests_chunks_and_status_survive():
    chunk = TokenChunk(
        (4, 5),
        FinishReason.STOP,
        (TokenLogprob(-0.5, ((4, -0.25), (5, -math.inf))), TokenLogprob(-math.inf)),
        (TokenLogprob(-1.0, ((6, -2.0),)),),
    )
    status = EngineStatus(("a",), ("b", "c"), 1, 2, {"engine": "native"})
    assert wire.decode_request(over_the_wire(wire.encode_request(REQUEST))) == REQUEST
    assert wire.decode_chunk(over_the_wire(wire.encode_chunk(chunk))) == chunk
    assert (
        wire.decode_chunk(over_the_wire(wire.encode_chunk(TokenChunk((4,))))).finish_reason is None
    )
    assert wire.decode_status(over_the_wire(wire.encode_status(status))) == status


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_keeps_its_class_and_words(kind):
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    error = kind(*("the text" for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD))
    if isinstance(error, errors.Unavailable):
        error.retry_after_seconds = 17
    found = wire.decode_error(over_the_wire(wire.encode_error(error)))
    assert type(found) is kind
    assert vars(found) == vars(error)
    assert str(found) == error.message


def test_an_error_of_a_newer_version_is_still_an_error():
    found = wire.decode_error({"class": "Novel", "message": "m", "param": None, "code": None})
    assert (type(found), found.message) == (errors.ServerError, "m")


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"id": "r"},
        {**wire.encode_request(REQUEST), "model": {}},
        {**wire.encode_request(REQUEST), "sampling": {"logit_bias": [[1]], "stop_token_ids": []}},
    ],
)
def test_a_request_that_is_none_is_refused(data):
    with pytest.raises(errors.InvalidValue):
        wire.decode_request(data)


def test_the_socket_lies_in_the_home_unless_its_path_is_too_long(tmp_path):
    short = wire.socket_path(Settings(home=Path("/home/me/.sintonia")))
    assert short == Path("/home/me/.sintonia/engine.sock")
    long, other = (Settings(home=tmp_path / ("x" * 120) / name) for name in ("a", "b"))
    assert len(bytes(wire.socket_path(long))) <= 100
    assert wire.socket_path(long) == wire.socket_path(long)
    assert wire.socket_path(long) != wire.socket_path(other)
