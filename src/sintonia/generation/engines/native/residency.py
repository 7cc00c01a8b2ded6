"""Which weights are in memory: bases and adapters, loaded on demand, evicted by last use.

Invariant: weights that a running request holds are not evicted, and one that is dropped from
here stays whole until its last request has ended. Only the engine's thread calls this;
loading goes on in a thread of its own while others are served.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sintonia.generation.base import ModelRef
from sintonia.generation.engines.native.adapters import load_adapter
from sintonia.generation.engines.native.linear import Adapter
from sintonia.generation.engines.native.loading import load_base
from sintonia.generation.engines.native.runner import Runner

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class ResidencyLimits:
    """How much may stay in memory; what is in use counts but is never evicted."""

    bases: int = 2
    adapters: int = 64
    adapter_bytes: int = 1024**3


@dataclass
class Resident(Generic[T]):
    """Weights that are there or on their way."""

    loading: Future[T]
    users: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it or uses it."""
        return self.loading.done() and self.users == 0


class Shelf(Generic[K, T]):
    """Weights by key, the least recently used first."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._residents: OrderedDict[K, Resident[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, key: K) -> bool:
        return key in self._residents

    def ask(self, key: K, load: Callable[[], T]) -> Resident[T] | None:
        """Return what is under ``key``, or ``None`` while ``load`` is at it.

        Raises what ``load`` raised, once: the next one to ask starts it again.
        """
        if key not in self._residents:
            self._residents[key] = Resident(_start(load, self._wake))
        resident = self._residents[key]
        self._residents.move_to_end(key)
        if not resident.loading.done():
            return None
        if resident.loading.exception() is not None:
            del self._residents[key]
        resident.loading.result()
        return resident

    def drop(self, key: K) -> None:
        """Forget what is under ``key``, if anything; those who use it keep it."""
        self._residents.pop(key, None)

    def first_idle(self) -> K | None:
        """Return the key that was used least recently among the idle ones."""
        return next((key for key, held in self._residents.items() if held.is_idle), None)

    def loaded(self) -> list[tuple[K, T]]:
        """Return what is whole; may be called from any thread."""
        residents = list(self._residents.items())
        return [(key, held.loading.result()) for key, held in residents if _is_whole(held)]


@dataclass
class Lease:
    """The weights of one running request."""

    runner: Runner
    adapter: Adapter | None
    _held: list[Resident[Any]]

    def release(self) -> None:
        """Give the weights back; again is harmless."""
        for resident in self._held:
            resident.users -= 1
        self._held.clear()


class Residency:
    """The weights in memory."""

    def __init__(self, limits: ResidencyLimits, wake: Callable[[], None]) -> None:
        self._limits = limits
        self._bases: Shelf[str, Runner] = Shelf(wake)
        self._adapters: Shelf[tuple[str, str], Adapter] = Shelf(wake)

    def lease(self, model: ModelRef) -> Lease | None:
        """Return the weights of ``model``, or ``None`` when they are not there yet.

        They are being loaded then (``wake`` is called when that ends) or wait for room.
        Raises ``RefusedModel`` and ``DamagedCheckpoint`` when they cannot be loaded.
        """
        base = self._base(model)
        if base is None:
            return None
        runner = base.loading.result()
        if model.adapter_folder is None:
            return _lease(runner, None, [base])
        adapter = self._adapter(model, model.adapter_folder, runner)
        if adapter is None:
            return None
        return _lease(runner, adapter.loading.result(), [base, adapter])

    def unload(self, sha256: str) -> None:
        """Drop a base (and the adapters over it) or an adapter; requests that run end in peace."""
        if sha256 in self._bases:
            self._drop_base(sha256)
        for key, _ in self._adapters.loaded():
            if key[1] == sha256:
                self._adapters.drop(key)

    def base_hashes(self) -> tuple[str, ...]:
        """Return the hashes of the bases in memory, least recently used first."""
        return tuple(sha256 for sha256, _ in self._bases.loaded())

    def adapter_hashes(self) -> tuple[str, ...]:
        """Return the hashes of the adapters in memory, least recently used first."""
        return tuple(key[1] for key, _ in self._adapters.loaded())

    def _base(self, model: ModelRef) -> Resident[Runner] | None:
        sha256, folder = model.base_sha256, Path(model.base_folder)
        while sha256 not in self._bases and len(self._bases) >= self._limits.bases:
            idle = self._bases.first_idle()
            if idle is None:
                return None
            self._drop_base(idle)
        return self._bases.ask(sha256, lambda: load_base(folder, sha256))

    def _adapter(
        self, model: ModelRef, adapter_folder: str, runner: Runner
    ) -> Resident[Adapter] | None:
        folder, sha256 = Path(adapter_folder), model.adapter_sha256 or ""
        key = (model.base_sha256, sha256 or adapter_folder)
        while key not in self._adapters and self._is_full():
            idle = self._adapters.first_idle()
            if idle is None:
                break
            self._adapters.drop(idle)
        return self._adapters.ask(key, lambda: load_adapter(folder, sha256, runner.shapes))

    def _is_full(self) -> bool:
        held_bytes = sum(adapter.size_bytes for _, adapter in self._adapters.loaded())
        limits = self._limits
        return len(self._adapters) >= limits.adapters or held_bytes >= limits.adapter_bytes

    def _drop_base(self, sha256: str) -> None:
        self._bases.drop(sha256)
        for key, _ in self._adapters.loaded():
            if key[0] == sha256:
                self._adapters.drop(key)
        # Modules refer to each other in circles: their memory is wanted back now.
        gc.collect()


def _lease(runner: Runner, adapter: Adapter | None, held: list[Resident[Any]]) -> Lease:
    for resident in held:
        resident.users += 1
    return Lease(runner, adapter, held)


def _is_whole(resident: Resident[Any]) -> bool:
    return resident.loading.done() and resident.loading.exception() is None


def _start(load: Callable[[], T], wake: Callable[[], None]) -> Future[T]:
    """Run ``load`` in a thread of its own; ``wake`` is called when it has ended."""
    loading: Future[T] = Future()

    def run() -> None:
        try:
            loading.set_result(load())
        except BaseException as problem:  # noqa: BLE001 - handed to whoever asks for the result
            loading.set_exception(problem)
        wake()

    threading.Thread(target=run, name="sintonia-load", daemon=True).start()
    return loading
