"""Text meets tokens here, and only here. Free of torch: ``tokenizers`` and a sandboxed Jinja.

The same class over the same files serves training and chat, so a learned turn is the prompt
exactly as serving would send it, followed by the separately encoded answer and its end token.
Encoding the two apart means that no token can span the border. Templates of models that can
think are always asked not to (``enable_thinking=False``): they then end the prompt with an empty
block of thoughts, which would otherwise count as a part of each learned answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from sintonia import ids
from sintonia.data import chat_template
from sintonia.data.probe import Probe, Shape, role_shapes, shape_of
from sintonia.data.special_tokens import SpecialTokens
from sintonia.data.token_bytes import TokenBytes, TokenText
from sintonia.domain.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    PreferenceExample,
    ToolCall,
)
from sintonia.errors import InvalidValue
from sintonia.sealed import read_json

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
FACTS = "sintonia.json"


_KEPT_SHAPES = 1024
"""How many shapes of conversations are remembered as expressible."""


@dataclass(frozen=True)
class TokenSequence:
    """One learned turn: what serving would send, then the answer and its end token."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class ParsedMessage:
    """What a model answered."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class RendererFiles:
    """What a renderer is made of."""

    tokenizer_json: bytes
    template: str
    context_tokens: int
    stop_tokens: tuple[str, ...]
    bos_token: str | None


class Renderer:
    """Messages to tokens and back for one model folder. Thread-safe; holds no state."""

    def __init__(self, files: RendererFiles, *, learns_last_only: bool = False) -> None:
        """``learns_last_only``: of the answers of a row only the last one is learned."""
        self.files = files
        self.learns_last_only = learns_last_only
        ends = (*files.stop_tokens, files.bos_token or "")
        self._special = SpecialTokens(files.tokenizer_json, ends)
        self._tokenizer = self._special.tokenizer
        self._bytes = TokenBytes(self._tokenizer, files.tokenizer_json)
        self._template = chat_template.compile_template(files.template)
        self._bos_token = files.bos_token or ""
        self._end_token = files.stop_tokens[0]
        self.context_tokens = files.context_tokens
        self.stop_token_ids = tuple(self._token_id(text) for text in files.stop_tokens)
        self.template_sha256 = _hash(
            _hash(files.tokenizer_json),
            _hash(files.template.encode()),
            repr((files.stop_tokens, files.bos_token)),
        )
        self._stop_tokens = files.stop_tokens
        self._require_prompt = lru_cache(maxsize=_KEPT_SHAPES)(self._check_prompt_shape)
        self._require_turn = lru_cache(maxsize=_KEPT_SHAPES)(self._check_turn_shape)
        self._special.learn_structure(lambda: [files.template, *self._written_for_every_role()])

    @classmethod
    def from_folder(cls, folder: Path, *, learns_last_only: bool = False) -> Renderer:
        """Read ``tokenizer.json``, ``chat_template.jinja`` and ``sintonia.json``."""
        facts = read_json(folder / FACTS)
        files = RendererFiles(
            tokenizer_json=(folder / TOKENIZER).read_bytes(),
            template=(folder / TEMPLATE).read_text(encoding="utf-8"),
            context_tokens=facts["context_tokens"],
            stop_tokens=tuple(facts["stop_tokens"]),
            bos_token=facts["bos_token"],
        )
        return cls(files, learns_last_only=learns_last_only)

    @property
    def num_tokens(self) -> int:
        """How many tokens there are; a token's id is below it."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def sequences(self, example: Example) -> list[TokenSequence]:
        """Return one sequence for each learned turn; of a pair the preferred answer first.

        Raises ``InvalidValue`` when the template cannot express the row: a tool, a call or a
        text that does not show in what it renders, or a token of its own in a text.
        """
        match example:
            case CompletionExample():
                return [self._completion_sequence(example)]
            case ChatExample():
                return self._chat_sequences(example)
            case PreferenceExample():
                return self._preference_sequences(example)

    def chat_prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Return the tokens to send for a chat request. Raises ``InvalidValue``."""
        self._check_texts(messages)
        self._check_tools(tools)
        self._require_prompt(shape_of(messages, tools))
        return self._encode(self._render(messages, tools, add_generation_prompt=True))

    def completion_prompt(self, prompt: str) -> list[int]:
        """Return the tokens to send for a raw prompt. Raises ``InvalidValue``.

        An empty prompt becomes the token that begins a text, so that there is a place to
        predict from.
        """
        self._special.refuse_in(prompt, "prompt")
        encoded = self._special.encode(prompt, add_special_tokens=True)
        return encoded or [self._token_id(self._bos_token or self._end_token)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; special tokens are left out, broken UTF-8 is U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_text(self, token_id: int, *, is_first: bool = False) -> TokenText:
        """Return what a token adds to the text of ``decode``; ``is_first``: it begins the text."""
        return self._bytes.of(token_id, is_first=is_first)

    def parse(self, text: str) -> ParsedMessage:
        """Split an answer into text and tool calls.

        A call that is not the JSON it should be stays text, so nothing is lost.
        """
        calls: list[ToolCall] = []

        def take(match: re.Match[str]) -> str:
            call = _parse_call(match[1])
            if call is None:
                return match[0]
            calls.append(call)
            return ""

        rest = _CALL.sub(take, text)
        return ParsedMessage(rest.strip() if calls else text, tuple(calls))

    def _completion_sequence(self, example: CompletionExample) -> TokenSequence:
        self._special.refuse_in(example.completion, "completion")
        prompt = self.completion_prompt(example.prompt)
        answer = [*self._encode(example.completion), self.stop_token_ids[0]]
        return TokenSequence(tuple(prompt), tuple(answer))

    def _chat_sequences(self, example: ChatExample) -> list[TokenSequence]:
        self._check_texts(example.messages)
        self._check_tools(example.tools)
        sequences = []
        learned = [place for place, message in enumerate(example.messages) if message.is_learned]
        for place in learned[-1:] if self.learns_last_only else learned:
            message = example.messages[place]
            prompt, answer, end_token = self._turn(example, place)
            weight = 1.0 if message.weight is None else float(message.weight)
            ids_ = (*self._encode(answer), self._token_id(end_token))
            sequences.append(TokenSequence(tuple(self._encode(prompt)), ids_, weight))
        return sequences

    def _preference_sequences(self, example: PreferenceExample) -> list[TokenSequence]:
        outputs = {
            "preferred_output": example.preferred,
            "non_preferred_output": example.non_preferred,
        }
        pair = []
        for key, answer in outputs.items():
            whole = ChatExample((*example.messages, answer), example.tools)
            with _placed_in_preference(key, len(example.messages)):
                pair.append(self._last_turn(whole))
        if pair[0].answer_ids == pair[1].answer_ids:
            raise InvalidValue(
                "has two outputs that the chat template writes alike; there is nothing to prefer",
                param="non_preferred_output",
            )
        return pair

    def _last_turn(self, example: ChatExample) -> TokenSequence:
        self._check_texts(example.messages)
        self._check_tools(example.tools)
        prompt, answer, end_token = self._turn(example, len(example.messages) - 1)
        ids_ = (*self._encode(answer), self._token_id(end_token))
        return TokenSequence(tuple(self._encode(prompt)), ids_)

    def _turn(self, example: ChatExample, place: int) -> tuple[str, str, str]:
        """Return prompt and answer of the turn at ``place``, and the token that ends it."""
        before, upto = example.messages[:place], example.messages[: place + 1]
        if not before:
            raise InvalidValue(
                "message is from the assistant and answers nothing; put what it answers before "
                "it, or give it the weight 0.",
                param="messages[0].role",
            )
        prompt = self._render(before, example.tools, add_generation_prompt=True)
        whole = self._render(upto, example.tools, add_generation_prompt=False)
        rest = whole.removeprefix(prompt)
        ends = [(rest.index(token), token) for token in self._stop_tokens if token in rest]
        if not whole.startswith(prompt) or not ends:
            raise InvalidValue(
                f"the chat template does not write message {place + 1} as its own prompt would "
                f"continue, with an end token ({', '.join(self._stop_tokens)}); "
                f"this model cannot learn it{_reasoning_hint(example.messages[place])}",
                param=f"messages[{place}]",
            )
        self._require_turn(shape_of(upto, example.tools))
        length, end_token = min(ends)
        return prompt, rest[:length], end_token

    def _check_prompt_shape(self, shape: Shape) -> None:
        """Refuse a conversation of this shape unless a prompt shows every part of it."""
        probe = Probe(shape)
        prompt = self._render(probe.messages, probe.tools, add_generation_prompt=True)
        probe.check_tools(prompt)
        probe.check_messages(prompt, range(len(probe.messages)))

    def _check_turn_shape(self, shape: Shape) -> None:
        """Refuse a learned turn of this shape unless its answer shows all that it says."""
        probe = Probe(shape)
        last = len(probe.messages) - 1
        before = probe.messages[:last]
        prompt = self._render(before, probe.tools, add_generation_prompt=True)
        whole = self._render(probe.messages, probe.tools, add_generation_prompt=False)
        probe.check_tools(prompt)
        probe.check_messages(prompt, range(last))
        probe.check_messages(whole.removeprefix(prompt), [last])

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
    ) -> str:
        values = {
            "messages": [_as_template_sees(message) for message in messages],
            "tools": [dict(tool) for tool in tools] or None,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": False,
            "bos_token": self._bos_token,
            "eos_token": self._end_token,
        }
        return chat_template.render(self._template, values)

    def _written_for_every_role(self) -> Iterator[str]:
        """Yield what the template writes for short conversations of every role."""
        for shape in role_shapes():
            probe = Probe(shape)
            for prompts in (True, False):
                with suppress(InvalidValue):
                    yield self._render(probe.messages, probe.tools, add_generation_prompt=prompts)

    def _encode(self, text: str) -> list[int]:
        return self._special.encode(text)

    def _token_id(self, text: str) -> int:
        token = self._tokenizer.token_to_id(text)
        if token is None:
            raise InvalidValue(f"the tokenizer has no token {text!r}, which the model names")
        return token

    def _check_texts(self, messages: Sequence[Message]) -> None:
        for place, message in enumerate(messages):
            calls = [text for call in message.tool_calls for text in _texts_of_call(call)]
            for text in (message.content or "", message.name or "", *calls):
                self._special.refuse_in(text, f"messages[{place}]")

    def _check_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        for place, tool in enumerate(tools):
            self._special.refuse_in(json.dumps(tool, ensure_ascii=False), f"tools[{place}]")


CALL_BEGIN = "<tool_call>"
"""How a tool call begins in an answer's text."""
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


@contextmanager
def _placed_in_preference(key: str, num_input: int) -> Iterator[None]:
    """Let a refusal name the message where a preference row has it."""
    try:
        yield
    except InvalidValue as error:
        place = re.sub(r"^(messages|tools)\[", r"input.\1[", error.param or "")
        place = place.replace(f"input.messages[{num_input}]", f"{key}[0]")
        raise InvalidValue(error.message, param=place or None) from None


def _parse_call(text: str) -> ToolCall | None:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(ids.new_id(ids.TOOL_CALL), value["name"], arguments)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _as_template_sees(message: Message) -> dict[str, Any]:
    """Return a message in the shape that chat templates expect: arguments as an object."""
    value: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.name is not None:
        value["name"] = message.name
    if message.tool_call_id is not None:
        value["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        value["tool_calls"] = [_call_as_template_sees(call) for call in message.tool_calls]
    return value


def _call_as_template_sees(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _arguments(call)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments


def _texts_of_call(call: ToolCall) -> tuple[str, ...]:
    """Return what a call can put into a prompt: its arguments with JSON's escapes undone too."""
    try:
        unescaped = json.dumps(_arguments(call), ensure_ascii=False)
    except RecursionError:
        raise InvalidValue("message has tool call arguments that nest too deep") from None
    return call.name, call.arguments, unescaped


def _reasoning_hint(message: Message) -> str:
    """Say what to do about an answer that thinks first, in a model that is asked not to."""
    if "</think>" not in (message.content or ""):
        return ""
    return "; leave out the reasoning (<think>...</think>): prompts ask the model not to think"


def _hash(*parts: bytes | str) -> str:
    joined = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
    return hashlib.sha256(joined).hexdigest()


__all__ = [
    "CALL_BEGIN",
    "ParsedMessage",
    "Renderer",
    "RendererFiles",
    "TokenSequence",
]
