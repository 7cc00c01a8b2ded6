"""Ten thousand broken training files through the API: none is a fault, each is named by line."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import psutil
import pytest
from api_calls import error_of, upload

from malformed import FILE_MUTATORS, LINE_MUTATORS, made
from sintonia.store import Store

FILES_PER_MUTATOR = 340
LEAST_FILES = 10_000
GROWTH_BYTES = 32 * 1024**2
"""That the process may grow by while it reads all but the first tenth of the files."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def services(services):
    """With room for files that are nested two hundred thousand deep."""
    settings = replace(services.settings, max_file_bytes=4_000_000)
    roomy = replace(services, settings=settings, store=Store.open(settings))
    yield roomy
    roomy.store.close()


def spoiled():
    for label, (content, line) in made(LINE_MUTATORS, FILES_PER_MUTATOR):
        yield label, content, line
    # Too few rows are a job's problem, not a file's: it may be for validation.
    whole = {name: mutate for name, mutate in FILE_MUTATORS.items() if name != "few"}
    for label, content in made(whole, FILES_PER_MUTATOR):
        yield label, content, None


def resident_bytes() -> int:
    return psutil.Process(os.getpid()).memory_info().rss


def test_every_broken_file_is_kept_and_told_to_be_broken(client):
    num_files, before = 0, 0
    for label, content, line in spoiled():
        if num_files == LEAST_FILES // 10:
            before = resident_bytes()
        file = upload(client, content)
        assert file["status"] == "error", label
        assert file["bytes"] == len(content), label
        assert names(file["status_details"].partition("\n")[0], line), label
        if num_files % 100 == 0:
            refuses_to_train_on(client, file)
        assert client.delete(f"/v1/files/{file['id']}").status_code == 200, label
        num_files += 1
    assert num_files >= LEAST_FILES
    assert resident_bytes() - before < GROWTH_BYTES


def names(message, line):
    """Tell whether a message names the line, or the file where its beginning is of no such file."""
    is_of_the_file = message.startswith("Invalid file format. The file ") and line in (1, None)
    return is_of_the_file or line is None or bool(re.search(rf"(Example|line) {line}\b", message))


def refuses_to_train_on(client, file):
    body = {"model": "tiny", "training_file": file["id"]}
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    message = error_of(answer, 400, "invalid_training_file", "training_file")
    assert "Invalid file format" in message
