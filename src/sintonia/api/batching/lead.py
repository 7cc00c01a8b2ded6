"""Leading one batch from where it stands to its end.

Invariant: what a step needs of the one before is on disk before the status says so. Wherever this
is broken off, by a kill too, the next lead goes on: a request whose record is safe is not asked
again, one whose record is not is asked once more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from sintonia import failpoints
from sintonia.api.batching.book import ERRORS, OUTPUT, AnswerBook
from sintonia.api.batching.desk import Desk
from sintonia.api.batching.workplace import Workplace
from sintonia.api.schemas.batches import Endpoint
from sintonia.api.translate.batches import CANCELLED, EXPIRED, not_answered
from sintonia.data.requests import RequestLine, RequestsReport, check_requests, iter_requests
from sintonia.domain.batches import Batch, BatchProblem, BatchStatus
from sintonia.domain.files import FilePurpose, StoredFile
from sintonia.errors import (
    FileNotFound,
    InvalidRequest,
    NotFound,
    ServerError,
    SintoniaError,
    Unavailable,
)
from sintonia.sealed import sync_file, sync_folder
from sintonia.store.batches import BatchOutcome

INPUT = "input.jsonl"
NOTE_SECONDS = 1.0
"""How often the counts of a batch at work are brought up to date."""
GROUP = 500
"""So many records of requests that were never made are written at once."""

_log = logging.getLogger(__name__)


class Lead:
    """The way of one batch to its end."""

    def __init__(self, batch_id: str, place: Workplace) -> None:
        self._id = batch_id
        self._place = place
        self._batches = place.services.store.batches
        self._folder = place.folder / batch_id
        self._call = asyncio.Event()
        self._is_called_off = threading.Event()
        self._steps = {
            BatchStatus.VALIDATING: self._validate,
            BatchStatus.IN_PROGRESS: self._work,
            BatchStatus.FINALIZING: self._finish,
            BatchStatus.CANCELLING: self._finish,
        }

    def call_off(self) -> None:
        """Let the step under way end soon: the batch was cancelled, or its window is over."""
        self._is_called_off.set()
        self._call.set()

    async def run(self) -> None:
        """Lead the batch on until it has ended."""
        while True:
            self._is_called_off.clear()  # before looking: what is called off after that counts
            self._call.clear()
            batch = await self._place.do(self._batches.get, self._id)
            if batch.status.is_terminal:
                break
            await self._steps[batch.status](batch)
        failpoints.reach("batch.clear")
        await self._place.do(shutil.rmtree, self._folder, True)  # True: ignore errors

    async def _validate(self, batch: Batch) -> None:
        await self._place.check(self._check, batch)

    def _check(self, batch: Batch) -> None:
        """Copy the input and check it whole; nothing of it runs when anything is wrong."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / INPUT
        try:
            self._place.services.store.files.copy_to(batch.draft.input_file_id, path)
        except FileNotFound as problem:
            message = f"{problem.message}. It was deleted before it was read; upload it again."
            self._batches.fail(self._id, [BatchProblem("file_not_found", message)])
            return
        endpoint = batch.draft.endpoint
        with path.open("rb") as file:
            report = check_requests(file, endpoint, is_called_off=self._is_called_off.is_set)
        if report is None:
            return
        model, problems = self._model_of(report)
        if problems:
            self._batches.fail(self._id, problems)
            return
        sync_file(path)
        sync_folder(self._folder)
        failpoints.reach("batch.admit")
        self._batches.admit(self._id, model, report.num_requests)

    def _model_of(self, report: RequestsReport) -> tuple[str, tuple[BatchProblem, ...]]:
        """Return the name that answers will have, and what is wrong with model and file."""
        name = report.model
        if name is None:
            return "", report.problems
        services = self._place.services
        try:
            return services.router.route(name).name, report.problems
        except (InvalidRequest, NotFound) as error:
            code = error.code or "model_not_found"
            problem = BatchProblem(code, error.message, "body.model", report.model_line)
            return name, (problem, *report.problems)
        except (Unavailable, ServerError):  # it is being fetched: the requests will wait for it
            return services.catalog.resolve(name).shown, report.problems

    async def _work(self, batch: Batch) -> None:
        """Answer what has no record yet, until all have one, or the window or the batch is over."""
        is_done = False
        if not batch.has_run_out(time.time()):
            with await self._place.do(AnswerBook, self._folder) as book, self._rest(book) as rest:
                endpoint = cast("Endpoint", batch.draft.endpoint)
                is_done = await self._answer_all(endpoint, rest, book)
        if is_done or batch.has_run_out(time.time()):
            failpoints.reach("batch.finalize")
            await self._place.do(self._batches.finalize, self._id)

    async def _answer_all(
        self, endpoint: Endpoint, rest: Iterator[RequestLine], book: AnswerBook
    ) -> bool:
        """Answer all of ``rest``; ``False`` when that was called off."""
        desk = Desk(rest, book, self._place)
        answering = [desk.answer_some(endpoint) for _ in range(self._place.slots)]
        workers = [asyncio.create_task(answer_some) for answer_some in answering]
        call = asyncio.create_task(self._call.wait())
        notes = asyncio.create_task(self._keep_noting(book))
        all_answered = asyncio.gather(*workers)
        ends: list[asyncio.Future[Any]] = [all_answered, call]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if all_answered.done():
                all_answered.result()
            return all_answered.done()
        finally:
            for task in (*workers, call, notes):
                task.cancel()
            await asyncio.gather(*workers, call, notes, all_answered, return_exceptions=True)

    async def _keep_noting(self, book: AnswerBook) -> None:
        """Tell the store now and then how far the batch has come."""
        noted = None
        while True:
            tally = book.tally
            if tally != noted:
                try:
                    await self._place.do(self._batches.note, self._id, tally)
                    noted = tally
                except SintoniaError as problem:  # busy or full: the next time may succeed
                    _log.warning("%s: its counts are late: %s", self._id, problem)
            await asyncio.sleep(NOTE_SECONDS)

    async def _finish(self, batch: Batch) -> None:
        await self._place.do(self._settle, batch)

    def _settle(self, batch: Batch) -> None:
        """Write off what was not answered, and let files, counts and the end appear at once."""
        is_cancelled = batch.status is BatchStatus.CANCELLING
        status, outcome = BatchStatus.CANCELLED, BatchOutcome()
        if batch.num_requests:  # else it was cancelled before it was checked
            with AnswerBook(self._folder) as book:
                if book.num_done < batch.num_requests:
                    self._write_off(book, CANCELLED if is_cancelled else EXPIRED)
                if not is_cancelled:
                    status = BatchStatus.EXPIRED if book.num_expired else BatchStatus.COMPLETED
                failpoints.reach("batch.stage")
                outcome = BatchOutcome(
                    tally=book.tally,
                    output=self._staged(batch, OUTPUT, "output"),
                    errors=self._staged(batch, ERRORS, "error"),
                )
        self._batches.settle(self._id, status, outcome)

    def _write_off(self, book: AnswerBook, code: str) -> None:
        with self._rest(book) as rest:
            while group := list(itertools.islice(rest, GROUP)):
                book.add([not_answered(request.custom_id, code) for request in group])

    def _staged(self, batch: Batch, name: str, kind: str) -> StoredFile | None:
        """Put the bytes of a file of records where files are; ``None`` when it has none."""
        path = self._folder / name
        if not path.stat().st_size:
            return None
        files = self._place.services.store.files
        filename = f"{self._id}_{kind}.jsonl"
        with path.open("rb") as content:
            file = files.stage(filename, FilePurpose.BATCH_OUTPUT, content, is_limited=False)
        seconds = batch.draft.output_seconds
        expires_at = None if seconds is None else file.created_at + seconds
        return dataclasses.replace(file, expires_at=expires_at)

    @contextmanager
    def _rest(self, book: AnswerBook) -> Iterator[Iterator[RequestLine]]:
        """Give the requests that have no record yet, in order."""
        with (self._folder / INPUT).open("rb") as file:
            yield (request for request in iter_requests(file) if not book.has(request.custom_id))
