"""Processes that check the parts of a large file, one for each core.

Each is ``python -m sintonia.data.crew``. The parent says which part and reads what was found: one
line of JSON and then the arrays' bytes. Parts are answered in the order they were asked for, so
what comes of a file is the same, byte for byte, with a crew and without one. What a process that
was killed leaves unanswered the parent checks itself. Only a few parts are
on their way at once, so memory does not grow with the file. A process of the crew ends when the
parent does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sintonia.cores import num_cores
from sintonia.data.checking import Checker, Columns, Counts, EncodingRules, Findings
from sintonia.data.parts import Part
from sintonia.data.problems import ProblemLog
from sintonia.data.renderer import Renderer, RendererFiles
from sintonia.domain.datasets import Problem

MIN_FILE_BYTES = 4 * 1024 * 1024
"""A smaller file is checked before a crew would have started."""
MAX_PROCESSES = 8
NICENESS = 10
"""Whoever serves comes first."""

_PARTS_AHEAD = 2
"""Of each process: one that it works on and one that it goes on with."""
_COLUMNS = tuple(column.name for column in fields(Columns))


def check_parts(
    checker: Checker, parts: Iterable[Part], processes: int
) -> Generator[Findings, None, None]:
    """Yield what is found in each of ``parts``, in their order, using so many ``processes``.

    The parts before the file's format is known are checked here, since the others are read by it.
    Ends early when the file turns out to be no JSON Lines.
    """
    format_name: str | None = None
    parts = iter(parts)
    for part in parts:
        found = checker.check(part, format_name)
        yield found
        if not found.is_json_lines:
            return
        format_name = found.format_name
        if format_name is not None and processes > 1:
            break
    if format_name is not None and processes > 1:
        with Crew(checker, format_name, processes) as crew:
            yield from crew.check(parts)


def usual_processes(size_bytes: int) -> int:
    """Return how many processes a file of this size is worth."""
    return 1 if size_bytes < MIN_FILE_BYTES else min(num_cores(), MAX_PROCESSES)


class Crew:
    """So many processes that check parts of one file; a context, at whose end they end."""

    def __init__(self, checker: Checker, format_name: str, processes: int) -> None:
        self._checker, self._format_name = checker, format_name
        self._members = [_Member() for _ in range(processes)]
        order = json.dumps(_order(checker, format_name)).encode() + b"\n"
        for member in self._members:  # once all of them are starting: each takes it when it has
            member.say(order)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self._members:
            member.end()

    def check(self, parts: Iterable[Part]) -> Iterator[Findings]:
        """Yield what is found in each of ``parts``, in their order."""
        asked: deque[tuple[_Member, Part]] = deque()
        for member, part in zip(cycle(self._members), parts, strict=False):
            if len(asked) == _PARTS_AHEAD * len(self._members):
                yield self._found(*asked.popleft())
            member.ask(part)
            asked.append((member, part))
        while asked:
            yield self._found(*asked.popleft())

    def _found(self, member: _Member, part: Part) -> Findings:
        return member.answer() or self._checker.check(part, self._format_name)


class _Member:
    """One process of a crew, as its parent sees it."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "sintonia.data.crew"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None, "a pipe was asked for"
        assert self._process.stdout is not None, "a pipe was asked for"
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout

    def ask(self, part: Part) -> None:
        self.say(json.dumps(asdict(part)).encode() + b"\n")

    def answer(self) -> Findings | None:
        """Return what it found in the oldest part that waits; ``None``: it ended before."""
        with suppress(EOFError):
            head = self._from.readline()
            if head.endswith(b"\n"):
                return _read_findings(json.loads(head), self._from)
        return None

    def say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # seen when it should answer
            self._to.write(line)
            self._to.flush()

    def end(self) -> None:
        """End the process, which has nothing to save."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError):  # what it did not take does not matter any more
                pipe.close()


def _order(checker: Checker, format_name: str) -> dict[str, Any]:
    renderer = checker.renderer
    return {
        "path": str(checker.path),
        "rules": asdict(checker.rules),
        "format_name": format_name,
        "renderer": None if renderer is None else _renderer_order(renderer),
    }


def _renderer_order(renderer: Renderer) -> dict[str, Any]:
    files = {**asdict(renderer.files), "tokenizer_json": renderer.files.tokenizer_json.decode()}
    return {"files": files, "learns_last_only": renderer.learns_last_only}


def _read_order(order: dict[str, Any]) -> tuple[Checker, str]:
    renderer = _read_renderer(order["renderer"]) if order["renderer"] else None
    rules = EncodingRules(**order["rules"])
    return Checker(Path(order["path"]), renderer, rules), order["format_name"]


def _read_renderer(order: dict[str, Any]) -> Renderer:
    files = order["files"]
    made = RendererFiles(
        tokenizer_json=files["tokenizer_json"].encode(),
        template=files["template"],
        context_tokens=files["context_tokens"],
        stop_tokens=tuple(files["stop_tokens"]),
        bos_token=files["bos_token"],
    )
    return Renderer(made, learns_last_only=order["learns_last_only"])


def _write_findings(found: Findings, to: IO[bytes]) -> None:
    arrays = _arrays(found)
    head = {
        "problems": [asdict(problem) for problem in found.problems.kept],
        "num_problems": found.problems.count,
        "num_rows": found.num_rows,
        "format_name": found.format_name,
        "is_json_lines": found.is_json_lines,
        "counts": asdict(found.counts),
        "lengths": [len(values) for values in arrays],
    }
    to.write(json.dumps(head).encode() + b"\n")
    for values in arrays:
        to.write(values.tobytes())
    to.flush()


def _read_findings(head: dict[str, Any], source: IO[bytes]) -> Findings:
    problems = [Problem(**problem) for problem in head["problems"]]
    found = Findings(
        problems=ProblemLog(problems, head["num_problems"]),
        num_rows=head["num_rows"],
        format_name=head["format_name"],
        is_json_lines=head["is_json_lines"],
        counts=Counts(**head["counts"]),
    )
    for values, length in zip(_arrays(found), head["lengths"], strict=True):
        values.fromfile(source, length)
    return found


def _arrays(found: Findings) -> list[array[Any]]:
    return [found.fingerprints, *(getattr(found.columns, name) for name in _COLUMNS)]


def main() -> None:
    """Check the parts that standard input names, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.nice(NICENESS)
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints must not get between the answers
        checker, format_name = _read_order(json.loads(source.readline()))
        for line in source:
            _write_findings(checker.check(Part(**json.loads(line)), format_name), answers)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
