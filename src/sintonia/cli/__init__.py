"""The command line: parse, call, print. Every mistake ends in words, never in a traceback."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sintonia import settings
from sintonia.cli.app import app
from sintonia.cli.output import print_error
from sintonia.errors import SintoniaError

TERMINATED = 143
"""Exit code of a command that SIGTERM ended."""
LOG = "logs/cli.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for an error, 2 for wrong usage."""
    # An orderly end: what a command started for itself is ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    return guarded(lambda: app(args=arguments, prog_name="sintonia"))


def guarded(command: Callable[[], object]) -> int:
    """Run ``command``; whatever it raises is told in words and becomes an exit code."""
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except SintoniaError as error:
        print_error(error)
    except OSError as problem:
        print_error(SintoniaError(_in_words(problem)))
    except Exception as fault:  # noqa: BLE001 - the one place where a fault of ours meets the user
        _tell_of_fault(fault)
    else:
        return 0
    return 1


def _in_words(problem: OSError) -> str:
    """Return what the machine refused: a full disk, a missing right, a file that is gone."""
    what = f"{problem.filename}: " if problem.filename else ""
    return f"{what}{problem.strerror or type(problem).__name__}."


def _tell_of_fault(fault: Exception) -> None:
    """Write the traceback into the log and say where that is; without a log name the fault."""
    log = _logged(fault)
    where = f"The details are in {log}" if log else f"It was {type(fault).__name__}: {fault}"
    words = f"Something went wrong in Sintonia itself. {where}; please report it with what you did."
    print_error(SintoniaError(words))


def _logged(fault: Exception) -> Path | None:
    """Return the log that the fault was written to, ``None`` when there is none to write to."""
    try:
        log = settings.load().home / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat()} {type(fault).__name__}\n")
            traceback.print_exception(fault, file=file)
    except Exception:  # noqa: BLE001 - the fault may lie in what finds the log; tell of it all the same
        return None
    return log
