"""``chat``: talk to a model, line by line or with a single prompt."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console

from sintonia import settings as settings_module
from sintonia.cli.background import connect
from sintonia.cli.client import Client
from sintonia.cli.options import ServerOption, check_number
from sintonia.cli.output import console, error_console, print_error, print_note
from sintonia.errors import InvalidValue, RemoteError, SintoniaError

PATIENCE_SECONDS = {"model_not_ready": 1800.0, "engine_unavailable": 60.0}
"""How long to wait after each refusal that may pass: a model that is being fetched takes its
time, an engine that starts again does not."""
HELP = "/new begins a new conversation, /exit or Ctrl-D ends; Ctrl-C stops an answer."


@dataclass
class Conversation:
    """What was said so far, and how answers are made."""

    model: str
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, client: Client, prompt: str) -> Iterator[str]:
        """Yield the answer to ``prompt``; both are remembered, unless the server refuses."""
        turns = [*self.turns, {"role": "user", "content": prompt}]
        first = [{"role": "system", "content": self.system}] if self.system else []
        request = {"model": self.model, "messages": [*first, *turns], **self.options}
        answer: list[str] = []
        try:
            for text in client.chat(request):
                answer.append(text)
                yield text
        finally:
            if answer:
                self.turns = [*turns, {"role": "assistant", "content": "".join(answer)}]


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base, alias or tuned model.")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]", help="Ask this only; without it, talk.", show_default=False
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    server: ServerOption = None,
) -> None:
    """Talk to a model. A prompt given here or piped in is answered once."""
    options = {"temperature": temperature, "max_tokens": max_tokens}
    given = {name: value for name, value in options.items() if value is not None}
    check_number("--temperature", temperature)
    conversation = Conversation(model, system, given)
    if prompt is None and not sys.stdin.isatty():
        prompt = piped_prompt()
    with connect(settings_module.load(), server) as client:
        if prompt is not None:
            answer(conversation, client, prompt, console())
        else:
            talk(conversation, client, console())


def piped_prompt() -> str:
    """Return what is piped in. Raises ``InvalidValue`` when it is empty or no UTF-8."""
    try:
        prompt = sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as problem:
        raise InvalidValue(
            f"The prompt on standard input: byte {problem.start + 1} is not UTF-8. "
            "Convert it to UTF-8 first."
        ) from None
    if not prompt:
        raise InvalidValue("The prompt on standard input is empty. Give one, or use a terminal.")
    return prompt


def talk(conversation: Conversation, client: Client, screen: Console) -> None:
    """Read prompts and answer them until the user leaves; a refused prompt is told, not fatal."""
    _prepare_line_editing()
    screen.print(f"Talking to {conversation.model}. {HELP}", style="dim", soft_wrap=True)
    for prompt in _prompts():
        if prompt in ("/new", "/reset"):
            conversation.turns = []
            screen.print("A new conversation.", style="dim")
            continue
        try:
            answer(conversation, client, prompt, screen)
        except KeyboardInterrupt:
            screen.print(" (stopped)", style="dim")
        except SintoniaError as problem:
            if isinstance(problem, RemoteError) and problem.code == "model_not_found":
                raise
            print_error(problem)


def answer(conversation: Conversation, client: Client, prompt: str, screen: Console) -> None:
    """Print an answer as it comes; wait for a model that is being fetched or loaded."""
    deadlines: dict[str, float] = {}
    while True:
        try:
            _print_answer(conversation.ask(client, prompt), screen)
        except RemoteError as problem:
            now = time.monotonic()
            patience = PATIENCE_SECONDS.get(problem.code or "", 0.0)
            if now >= deadlines.setdefault(problem.code or "", now + patience):
                raise
            _wait(problem)
        else:
            return


def _print_answer(texts: Iterator[str], screen: Console) -> None:
    with error_console().status("...") as waiting:
        first = next(texts, "")
        waiting.stop()
    screen.file.write(first)
    for text in texts:
        screen.file.write(text)
        screen.file.flush()
    screen.file.write("\n")
    screen.file.flush()


def _wait(problem: RemoteError) -> None:
    with error_console().status(problem.message):
        time.sleep(problem.retry_after_seconds or 2.0)


def _prompts() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print_note("\nGoodbye.")
            return
        if line in ("/exit", "/quit"):
            return
        if line:
            yield line


def _prepare_line_editing() -> None:
    """Give ``input`` a history and the arrow keys, where the platform has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
