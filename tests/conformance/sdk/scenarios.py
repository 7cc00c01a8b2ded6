"""How the Python scripts are run: scenario after scenario, one line of JSON for each.

Only the standard library, since each script runs in the environment of one client library.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TERMINAL = {"succeeded", "failed", "cancelled"}
_SCENARIOS: list[Callable[..., Any]] = []


class Skip(Exception):
    """A scenario that this client or this server has nothing for."""


@dataclass
class Run:
    """What a script was told, and what its scenarios hand on to later ones."""

    base_url: str
    api_key: str
    model: str
    job_seconds: float
    is_async: bool
    kept: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Return what an earlier scenario kept."""
        if name not in self.kept:
            raise Skip(f"needs what an earlier scenario makes: {name}")
        return self.kept[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.kept[name] = value

    @property
    def origin(self) -> str:
        """The address without ``/v1``."""
        return self.base_url.removesuffix("/v1")


def scenario(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add a function of a ``Run`` to those that the script runs, in the order of the file."""
    _SCENARIOS.append(function)
    return function


def main(is_absent: Callable[[Exception], bool], begin: Callable[[Run], None]) -> None:
    """Run all scenarios with what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--job-seconds", type=float, default=300.0)
    parser.add_argument("--async", dest="is_async", action="store_true")
    run = Run(**vars(parser.parse_args()))
    asyncio.run(_all(run, is_absent, begin))


async def _all(
    run: Run, is_absent: Callable[[Exception], bool], begin: Callable[[Run], None]
) -> None:
    begin(run)
    for function in _SCENARIOS:
        began = time.monotonic()
        ok, detail = await _outcome(function, run, is_absent)
        seconds = round(time.monotonic() - began, 2)
        line = {"scenario": function.__name__, "ok": ok, "detail": detail, "seconds": seconds}
        print(json.dumps(line), flush=True)


async def _outcome(
    function: Callable[..., Any], run: Run, is_absent: Callable[[Exception], bool]
) -> tuple[bool | None, str]:
    """Return whether a scenario held; ``None`` where there is nothing to hold."""
    try:
        result = function(run)
        if inspect.isawaitable(result):
            await result
    except Skip as skip:
        return None, str(skip)
    except Exception as error:
        if is_absent(error):
            return None, f"not there: {error}"
        return False, f"{type(error).__name__}: {error} (line {_line_of(error, function)})"
    return True, ""


def _line_of(error: BaseException, function: Callable[..., Any]) -> int | None:
    """Return the line of the scenario's file that an error came through."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == function.__code__.co_filename:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
