"""Text meets tokens here, and only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintonia.domain.examples import Example, Message, ToolCall


@dataclass(frozen=True)
class TokenSequence:
    """One learned turn: what serving would send, then the answer and its end token."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class ParsedMessage:
    """What a model answered."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()


class Renderer:
    """Messages to tokens and back for one model folder. Thread-safe; holds no state."""

    context_tokens: int
    stop_token_ids: tuple[int, ...]
    template_sha256: str
    """Hash of tokenizer and chat template together; a tuned model keeps it."""

    @classmethod
    def from_folder(cls, folder: Path) -> Renderer:
        """Read ``tokenizer.json``, ``chat_template.jinja`` and ``sintonia.json``."""
        raise NotImplementedError

    def sequences(self, example: Example) -> list[TokenSequence]:
        """Return one sequence for each learned turn. Raises ``InvalidValue`` (message, param)."""
        raise NotImplementedError

    def chat_prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Return the tokens to send for a chat request. Raises ``InvalidValue``."""
        raise NotImplementedError

    def completion_prompt(self, prompt: str) -> list[int]:
        """Return the tokens to send for a raw prompt. Raises ``InvalidValue``."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; special tokens are left out, broken UTF-8 is U+FFFD."""
        raise NotImplementedError

    def parse(self, text: str) -> ParsedMessage:
        """Split an answer into text and tool calls."""
        raise NotImplementedError
