"""What the leads of all batches share: services, the answerer, threads and a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from sintonia.api.batching.answering import Answerer
from sintonia.api.services import Services

_CHECKS = 1
_THREADS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Workplace:
    """Where batches are worked on. Their threads are their own: routes need not wait for one."""

    services: Services
    answerer: Answerer
    slots: int
    """How many requests of one batch are begun at once."""
    _checks: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_CHECKS))
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_THREADS))

    @property
    def folder(self) -> Path:
        """Where batches keep their files while they are at work, each in a folder of its own."""
        return self.services.settings.home / "batches"

    async def check(self, work: Callable[..., T], *args: Any) -> T:
        """Do in a thread what takes seconds of computing: only one of it at a time."""
        return await to_thread.run_sync(work, *args, limiter=self._checks)

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Do in a thread what waits for the disk."""
        return await to_thread.run_sync(work, *args, limiter=self._threads)
