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
    """Write the traceback into the log and say where that is."""
    log = _log_file()
    where = f" The details are in {log}; please report them with what you did." if log else ""
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat()} {type(fault).__name__}\n")
            traceback.print_exception(fault, file=file)
    print_error(SintoniaError(f"Something went wrong in Sintonia itself.{where}"))


def _log_file() -> Path | None:
    try:
        log = settings.load().home / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, SintoniaError):
        return None
    return log
