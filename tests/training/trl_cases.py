"""Rows, and each token of them where TRL's own rendering differs from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Why(StrEnum):
    """The reasons, as the table in ``docs/training.md`` names them."""

    NEWLINE = "the newline after the end token"
    PROMPT = "the prompt"
    HEADER = "the newline before the answer"
    EARLIER = "earlier answers"
    WEIGHT = "answers of weight 0"
    AFTER = "what follows the last learned answer"
    ARGUMENTS = "arguments of tool calls"
    THOUGHTS = "the empty block of thoughts"
    BORDER = "tokens over the border"
    CUT = "the end of a long row"


@dataclass(frozen=True)
class Gap:
    """Neighbouring tokens that are something else to the two."""

    tokens: str
    """Their texts with ¦ between."""
    ours: str
    theirs: str
    why: Why


@dataclass(frozen=True)
class Case:
    """A row as we read it, the same as TRL is given it, and the gaps between."""

    name: str
    row: Mapping[str, Any]
    trl_row: Mapping[str, Any]
    gaps: tuple[Gap, ...]
    """Of a preference: of both answers, the preferred one first."""
    template: str | None = None
    """One that TRL brings, in place of the base's own."""
    options: Mapping[str, Any] = field(default_factory=dict)


def message(role: str, content: str, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


def split(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a chat as TRL has to have it to learn the answer only."""
    return {"prompt": messages[:-1], "completion": messages[-1:]}


KIND = message("system", "Be kind.")
WHERE, THANKS = message("user", "Where is it?"), message("user", "Thanks!")
NEAR, PLEASURE = message("assistant", "Nearly there."), message("assistant", "With pleasure.")
FUNCTION = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALLED = {"name": "look_up", "arguments": '{"number": 7}'}
CALL = message(
    "assistant", "", tool_calls=[{"id": "call_1", "type": "function", "function": CALLED}]
)
RESULT = message("tool", "In Rome.", tool_call_id="call_1")

ONE = [KIND, WHERE, NEAR]
TWO = [*ONE, THANKS, PLEASURE]
UNLEARNED_FIRST = [KIND, WHERE, {**NEAR, "weight": 0}, THANKS, {**PLEASURE, "weight": 1}]
UNLEARNED_LAST = [KIND, WHERE, {**NEAR, "weight": 1}, THANKS, {**PLEASURE, "weight": 0}]
USES_TOOL = [WHERE, CALL, RESULT, NEAR]
PAIR = {
    "input": {"messages": ONE[:2]},
    "preferred_output": [NEAR],
    "non_preferred_output": [PLEASURE],
}
TRL_PAIR = {"prompt": ONE[:2], "chosen": [NEAR], "rejected": [PLEASURE]}

NEWLINE = Gap("\n", "absent", "learned", Why.NEWLINE)
PAST_NEWLINE = Gap("\n", "read", "learned", Why.NEWLINE)
HEADER = Gap("\n", "read", "learned", Why.HEADER)
WHOLE_PROMPT = Gap(
    "system¦\n¦Be¦ kind¦.¦<|im_end|>¦\n¦<|im_start|>¦user¦\n¦Where¦ is¦ it¦?¦<|im_end|>¦\n"
    "¦<|im_start|>¦ass¦istant¦\n",
    "read",
    "learned",
    Why.PROMPT,
)
UNLEARNED_BY_TRL = Gap("Nearly¦ there¦.¦<|im_end|>", "learned", "read", Why.EARLIER)
UNLEARNED_BY_US = Gap("\n¦Nearly¦ there¦.¦<|im_end|>¦\n", "read", "learned", Why.WEIGHT)
NOT_READ_BY_US = Gap(
    "<|im_start|>¦user¦\n¦Thanks¦!¦<|im_end|>¦\n¦<|im_start|>¦ass¦istant",
    "absent",
    "read",
    Why.AFTER,
)
NOT_LEARNED_BY_US = Gap("\n¦With¦ pleasure¦.¦<|im_end|>¦\n", "absent", "learned", Why.WEIGHT)
QUOTED_ARGUMENTS = (
    Gap(' {"', "learned", "absent", Why.ARGUMENTS),
    Gap(' "{¦\\"', "absent", "learned", Why.ARGUMENTS),
    Gap("\\", "absent", "learned", Why.ARGUMENTS),
    Gap("}}", "learned", "absent", Why.ARGUMENTS),
    Gap('}"¦}', "absent", "learned", Why.ARGUMENTS),
)
THOUGHTS = (
    Gap("<¦think¦>¦\n¦\n¦</¦think¦>", "read", "learned", Why.THOUGHTS),
    Gap("\n\n", "read", "absent", Why.THOUGHTS),
    Gap("\n¦\n", "absent", "learned", Why.THOUGHTS),
    NEWLINE,
)
CUT = (Gap(".¦<|im_end|>", "learned", "absent", Why.CUT),)
JOINED = (
    Gap(" ", "read", "absent", Why.BORDER),
    Gap("blue", "learned", "absent", Why.BORDER),
    Gap(" blue", "absent", "learned", Why.BORDER),
)


def chat(name: str, messages: list[dict[str, Any]], *gaps: Gap) -> Case:
    """Return a chat that TRL is given as it stands."""
    return Case(name, {"messages": messages}, {"messages": messages}, gaps)


def answers(case: Case, template: str, **others: Any) -> Case:
    """Return the case with a template by which TRL can learn all answers and nothing else."""
    row = {**case.row, **others}
    options = {"assistant_only_loss": True}
    return replace(case, row=row, trl_row=row, template=template, options=options)


def last_answer(case: Case, **options: Any) -> Case:
    """Return the case in the shape by which TRL learns the last answer only."""
    return replace(case, trl_row=split(case.row["messages"]), options=options)


def text(name: str, prompt: str, completion: str, *gaps: Gap) -> Case:
    row = {"prompt": prompt, "completion": completion}
    return Case(name, row, row, gaps)


PREFERENCE = Case("a preference", PAIR, TRL_PAIR, (NEWLINE, NEWLINE))
TOOL_USE = chat(
    "a tool is used", USES_TOOL, HEADER, *QUOTED_ARGUMENTS, PAST_NEWLINE, HEADER, NEWLINE
)
CASES = [
    chat("one turn, as TRL reads messages", ONE, WHOLE_PROMPT, NEWLINE),
    last_answer(chat("one turn, the answer only", ONE, NEWLINE)),
    last_answer(chat("two turns, the last answer only", TWO, UNLEARNED_BY_TRL, NEWLINE)),
    answers(chat("two turns", TWO, HEADER, PAST_NEWLINE, HEADER, NEWLINE), "qwen2_5"),
    answers(
        chat("the first turn unlearned", UNLEARNED_FIRST, UNLEARNED_BY_US, HEADER, NEWLINE),
        "qwen2_5",
    ),
    answers(
        chat(
            "the last turn unlearned",
            UNLEARNED_LAST,
            HEADER,
            NEWLINE,
            NOT_READ_BY_US,
            NOT_LEARNED_BY_US,
        ),
        "qwen2_5",
    ),
    answers(TOOL_USE, "qwen2_5", tools=TOOLS),
    answers(chat("a model that thinks", ONE, *THOUGHTS), "qwen3"),
    last_answer(chat("a long row", ONE, *CUT), max_length=23),
    text("raw text", "2 + 2 =", " 4"),
    text("raw text, a space at the border", "Colour: ", "blue", *JOINED),
    PREFERENCE,
    replace(
        PREFERENCE,
        name="a preference, a model that thinks",
        template="qwen3",
        gaps=(*THOUGHTS, *THOUGHTS),
    ),
]
