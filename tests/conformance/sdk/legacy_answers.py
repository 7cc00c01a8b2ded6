"""Answers through openai 0.28.1: all that shapes them, and the oldest forms of asking."""

from __future__ import annotations

from typing import Any

import openai
from legacy_kit import USER, begin, failure, is_absent
from scenarios import Run, Skip, main, scenario

SUN = {"name": "sun", "parameters": {"type": "object"}}


def ask(run: Run, **options: Any) -> Any:
    """Return an answer to a chat."""
    given = {"model": run.model, "messages": USER, "max_tokens": 8, "temperature": 0, **options}
    return openai.ChatCompletion.create(**given)


def go_on(run: Run, **options: Any) -> Any:
    """Return a completion of a prompt."""
    given = {"model": run.model, "prompt": "abc", "max_tokens": 4, "temperature": 0, **options}
    return openai.Completion.create(**given)


@scenario
def several_answers(run: Run) -> None:
    assert [choice.index for choice in ask(run, n=2).choices] == [0, 1]
    assert [c.index for c in go_on(run, prompt=["abc", "xyz"], n=2).choices] == [0, 1, 2, 3]


@scenario
def functions(run: Run) -> None:
    for choice in ("none", "auto"):
        answer = ask(run, functions=[SUN], function_call=choice)
        assert answer.choices[0].finish_reason in {"stop", "length", "function_call"}
    called = {"role": "assistant", "content": None}
    called["function_call"] = {"name": "sun", "arguments": "{}"}
    result = {"role": "function", "name": "sun", "content": "rain"}
    assert ask(run, messages=[*USER, called, result], functions=[SUN]).choices


@scenario
def penalties_and_bias(run: Run) -> None:
    options = {"frequency_penalty": 2, "presence_penalty": -2, "logit_bias": {"65": -100}}
    assert ask(run, **options).choices
    assert go_on(run, **options).choices
    far = failure(openai.error.InvalidRequestError, lambda: ask(run, frequency_penalty=3))
    assert far.param == "frequency_penalty", far


@scenario
def best_of(run: Run) -> None:
    assert len(go_on(run, best_of=3, n=2, temperature=1).choices) == 2


@scenario
def completion_log_probabilities(run: Run) -> None:
    told = go_on(run, max_tokens=1, logprobs=2).choices[0].logprobs
    assert told["top_logprobs"][0][told["tokens"][0]] == told["token_logprobs"][0]


@scenario
def scored_prompt(run: Run) -> None:
    choice = go_on(run, max_tokens=0, echo=True, logprobs=0).choices[0]
    assert choice.text == "abc"
    assert choice.logprobs.token_logprobs[0] is None


@scenario
def streamed_completions(run: Run) -> None:
    whole = go_on(run).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in go_on(run, stream=True)) == whole


@scenario
def engine_in_the_path(run: Run) -> None:
    answer = openai.ChatCompletion.create(engine=run.model, messages=USER, max_tokens=4)
    assert answer.choices
    assert openai.Completion.create(engine=run.model, prompt="abc", max_tokens=2).choices


@scenario
def unknown_parameters_are_named(run: Run) -> None:
    error = failure(openai.error.InvalidRequestError, lambda: ask(run, surprise=1))
    assert (error.code, error.param) == ("unknown_parameter", "surprise"), error


@scenario
def slashed_name(run: Run) -> None:
    names = [one.id for one in openai.Model.list().data if "/" in one.id]
    if not names:
        raise Skip("no model here has a slash in its name")
    assert ask(run, model=names[0]).choices
    assert openai.Completion.create(engine=names[0], prompt="abc", max_tokens=2).choices


@scenario
async def asynchronous_streaming(run: Run) -> None:
    options = {"model": run.model, "prompt": "abc", "max_tokens": 4, "temperature": 0}
    whole = await openai.Completion.acreate(**options)
    chunks = [chunk async for chunk in await openai.Completion.acreate(**options, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


if __name__ == "__main__":
    main(is_absent, begin)
