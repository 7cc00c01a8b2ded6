"""Answers through openai 1.x, 2.x and 3.x: chat, completions, and all that shapes them."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import openai
from modern_kit import CLIENT, USER, begin, each, failure, is_absent, listed, need, now
from scenarios import Run, Skip, main, scenario

SUN = {"name": "sun", "parameters": {"type": "object"}}


async def ask(run: Run, **options: Any) -> Any:
    """Return an answer to a chat."""
    given = {"model": run.model, "messages": USER, "max_tokens": 8, "temperature": 0, **options}
    return await now(run[CLIENT].chat.completions.create(**given))


async def go_on(run: Run, **options: Any) -> Any:
    """Return a completion of a prompt."""
    given = {"model": run.model, "prompt": "abc", "max_tokens": 4, "temperature": 0, **options}
    return await now(run[CLIENT].completions.create(**given))


def text_of(answer: Any) -> str:
    """Return the text of the first choice."""
    return answer.choices[0].message.content


@scenario
async def several_answers(run: Run) -> None:
    answer = await ask(run, n=3, seed=1, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    again = await ask(run, n=3, seed=1, temperature=1)
    assert [c.message for c in again.choices] == [c.message for c in answer.choices]


@scenario
async def stop_texts(run: Run) -> None:
    whole = text_of(await ask(run, max_tokens=40))
    if len(whole) < 3:
        raise Skip("the model says too little to stop it")
    stopped = await ask(run, max_tokens=40, stop=[whole[2]])
    assert text_of(stopped) == whole[: whole.index(whole[2])]


@scenario
async def log_probabilities(run: Run) -> None:
    answer = await ask(run, logprobs=True, top_logprobs=2)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode() == text_of(answer)
    assert all(token.logprob <= 0 and 1 <= len(token.top_logprobs) <= 2 for token in told)


@scenario
async def streamed_log_probabilities(run: Run) -> None:
    whole = await ask(run, logprobs=True)
    chunks = await listed(await ask(run, logprobs=True, stream=True))
    told = [
        token.token
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert told == [token.token for token in whole.choices[0].logprobs.content]


@scenario
async def penalties_and_bias(run: Run) -> None:
    options = {"frequency_penalty": 2, "presence_penalty": -2, "logit_bias": {"65": -100}}
    assert (await ask(run, **options)).choices
    assert (await go_on(run, **options)).choices
    far = await failure(openai.BadRequestError, lambda: ask(run, frequency_penalty=3))
    assert far.param == "frequency_penalty", far


@scenario
async def functions(run: Run) -> None:
    for choice in ("none", "auto"):
        answer = await ask(run, functions=[SUN], function_call=choice)
        assert answer.choices[0].finish_reason in {"stop", "length", "function_call"}
    called = {"role": "assistant", "content": None}
    called["function_call"] = {"name": "sun", "arguments": "{}"}
    result = {"role": "function", "name": "sun", "content": "rain"}
    assert (await ask(run, messages=[*USER, called, result], functions=[SUN])).choices


@scenario
async def tools(run: Run) -> None:
    tool = {"type": "function", "function": SUN}
    assert (await ask(run, tools=[tool], tool_choice="auto", parallel_tool_calls=False)).choices
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "sun", "arguments": "{}"}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    assert (await ask(run, messages=[*USER, called, result], tools=[tool])).choices


@scenario
async def stream_helper(run: Run) -> None:
    make = need(run[CLIENT].chat.completions, "stream")
    whole = await ask(run)
    text = ""
    try:
        manager = make(model=run.model, messages=USER, max_tokens=8, temperature=0)
        async with contextlib.AsyncExitStack() as stack:
            entered = stack.enter_async_context if run.is_async else stack.enter_context
            async for event in each(await now(entered(manager))):
                text += event.delta if event.type == "content.delta" else ""
    except openai.LengthFinishReasonError:
        assert whole.choices[0].finish_reason == "length"
    assert text == text_of(whole)


@scenario
async def parse_helper(run: Run) -> None:
    parse = need(run[CLIENT].chat.completions, "parse")
    try:
        answer = await now(parse(model=run.model, messages=USER, max_tokens=8))
    except openai.LengthFinishReasonError:
        answer = await ask(run)
    assert isinstance(text_of(answer), str)


@scenario
async def best_of(run: Run) -> None:
    answer = await go_on(run, best_of=3, n=2, temperature=1, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    few = await failure(openai.BadRequestError, lambda: go_on(run, best_of=1, n=2))
    assert few.param == "best_of", few


@scenario
async def completion_log_probabilities(run: Run) -> None:
    answer = await go_on(run, max_tokens=1, logprobs=2)
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset)
    assert math.isclose(told.top_logprobs[0][told.tokens[0]], told.token_logprobs[0])


@scenario
async def scored_prompt(run: Run) -> None:
    answer = await go_on(run, max_tokens=0, echo=True, logprobs=0)
    told = answer.choices[0].logprobs
    assert answer.choices[0].text == "abc"
    assert told.token_logprobs[0] is None
    assert all(value <= 0 for value in told.token_logprobs[1:])


@scenario
async def prompts_of_token_ids(run: Run) -> None:
    answer = await go_on(run, prompt=[[65, 66], [67]])
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == 3


@scenario
async def unknown_parameters_are_named(run: Run) -> None:
    error = await failure(openai.BadRequestError, lambda: ask(run, extra_body={"surprise": 1}))
    assert (error.code, error.param) == ("unknown_parameter", "surprise"), error


@scenario
async def slashed_name(run: Run) -> None:
    names = [one.id for one in await listed(run[CLIENT].models.list()) if "/" in one.id]
    if not names:
        raise Skip("no model here has a slash in its name")
    assert (await ask(run, model=names[0])).choices


@scenario
async def rate_limit_headers(run: Run) -> None:
    raw = await now(
        run[CLIENT].chat.completions.with_raw_response.create(
            model=run.model, messages=USER, max_tokens=2
        )
    )
    if "x-ratelimit-limit-requests" not in raw.headers:
        raise Skip("not there: rate-limit headers")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) >= 0


@scenario
async def stored_completions(run: Run) -> None:
    chat = run[CLIENT].chat.completions
    need(chat, "messages")
    wanted = {"client": f"{openai.__version__} {run.is_async}"}
    made = await ask(run, store=True, metadata=wanted)
    assert made.id in [one.id for one in await listed(chat.list(metadata=wanted))]
    assert (await now(chat.retrieve(made.id))).id == made.id
    changed = await now(chat.update(made.id, metadata={"client": "changed"}))
    assert changed.metadata == {"client": "changed"}
    assert [m.content for m in await listed(chat.messages.list(made.id))] == ["Say 3"]
    assert (await now(chat.delete(made.id))).deleted is True


if __name__ == "__main__":
    main(is_absent, begin)
