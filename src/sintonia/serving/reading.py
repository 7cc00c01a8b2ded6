"""What the engine says becomes the pieces of one answer.

Invariant: nothing here waits, and an answer's pieces do not depend on how its tokens were
gathered into chunks: what follows the token that ends it is not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from sintonia.data.renderer import Renderer
from sintonia.generation.base import FinishReason, GenerationRequest, TokenChunk, TokenLogprob
from sintonia.serving.answers import EndPiece, Piece, ScoredToken, StopReason, TextPiece
from sintonia.serving.text import AnswerText
from sintonia.serving.trail import TokenTrail, placed

_REASONS = {FinishReason.STOP: StopReason.STOP, FinishReason.LENGTH: StopReason.LENGTH}


@dataclass(frozen=True)
class Asked:
    """One answer that the engine is asked for."""

    index: int
    """Which answer of the call."""
    request: GenerationRequest
    renderer: Renderer
    stop: tuple[str, ...] = ()
    shows_tokens: bool = False
    """Whether its pieces carry tokens; the engine's log-probabilities may serve a choice only."""
    prompt_text: str = ""
    """What stands before the answer; needed for the tokens' offsets, and to be echoed."""
    is_echoed: bool = False
    """Whether the answer begins with ``prompt_text``."""


class AnswerReader:
    """Reads the chunks of one answer in order."""

    def __init__(self, asked: Asked) -> None:
        renderer = asked.renderer
        self.is_over = False
        self._asked = asked
        self._owes_prompt = asked.is_echoed
        self._prompt_logprobs: list[TokenLogprob] = []
        self._text = AnswerText(renderer.decode, asked.stop, renderer.stop_token_ids)
        self._trail = TokenTrail(len(asked.prompt_text))
        self._has_text = False
        self._num_tokens = 0
        self._num_cached_tokens = 0
        self._logprob = 0.0

    def read(self, chunk: TokenChunk) -> list[Piece]:
        """Return the pieces that ``chunk`` settles."""
        pieces = self._prompt_pieces(chunk)
        new = self._read_tokens(chunk)
        if chunk.finish_reason is not None:
            new += self._text.finish()
        self.is_over = self._text.has_stopped or chunk.finish_reason is not None
        tokens = self._trail.take(len(new))
        if self.is_over:
            tokens += self._trail.finish()
        if new or tokens:
            pieces.append(TextPiece(self._asked.index, new, tokens))
        if self.is_over:
            pieces.append(self._end(chunk.finish_reason))
        return pieces

    def _read_tokens(self, chunk: TokenChunk) -> str:
        """Return the text that the chunk's tokens settle, up to the one that ends the answer."""
        new = ""
        self._num_cached_tokens += chunk.cached_tokens
        for place, token_id in enumerate(chunk.token_ids):
            self._num_tokens += 1
            if chunk.logprobs:
                self._note(token_id, chunk.logprobs[place])
            new += self._text.push([token_id])
            if self._text.has_stopped:
                break
        return new

    def _note(self, token_id: int, thought: TokenLogprob) -> None:
        self._logprob += thought.logprob
        if not self._asked.shows_tokens or token_id in self._asked.renderer.stop_token_ids:
            return
        scored = self._scored(token_id, thought, is_first=not self._has_text)
        self._has_text = self._has_text or scored.token.bytes is not None
        self._trail.push([scored])

    def _end(self, reason: FinishReason | None) -> EndPiece:
        why = StopReason.STOP if self._text.has_stopped or reason is None else _REASONS[reason]
        mean = None
        if self._asked.request.sampling.top_logprobs is not None and self._num_tokens:
            mean = self._logprob / self._num_tokens
        return EndPiece(self._asked.index, why, self._num_tokens, mean, self._num_cached_tokens)

    def _prompt_pieces(self, chunk: TokenChunk) -> list[Piece]:
        """Return the echo of the prompt once, when all that belongs to it is there."""
        asked = self._asked
        self._prompt_logprobs += chunk.prompt_logprobs
        is_scored = asked.shows_tokens and asked.request.sampling.prompt_logprobs
        num_missing = len(asked.request.prompt_ids) - 1 - len(self._prompt_logprobs)
        if not self._owes_prompt or (is_scored and num_missing > 0):
            return []
        self._owes_prompt = False
        tokens = self._prompt_tokens() if is_scored else ()
        return [TextPiece(asked.index, asked.prompt_text, tokens)]

    def _prompt_tokens(self) -> tuple[ScoredToken, ...]:
        """Return every token of the prompt, special ones too, so that callers can count them."""
        token_ids = self._asked.request.prompt_ids
        renderer = self._asked.renderer
        first = ScoredToken(renderer.token_text(token_ids[0], is_first=True), None)
        has_text = first.token.bytes is not None
        tokens = [first]
        for token_id, thought in zip(token_ids[1:], self._prompt_logprobs, strict=True):
            tokens.append(self._scored(token_id, thought, is_first=not has_text))
            has_text = has_text or tokens[-1].token.bytes is not None
        return placed(tokens)

    def _scored(self, token_id: int, thought: TokenLogprob, *, is_first: bool) -> ScoredToken:
        renderer = self._asked.renderer
        top = [(renderer.token_text(i, is_first=is_first), logprob) for i, logprob in thought.top]
        token = renderer.token_text(token_id, is_first=is_first)
        return ScoredToken(token, thought.logprob, tuple(top))
