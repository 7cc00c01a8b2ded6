"""A job's own copies of its files, checked and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, Samples, check_samples
from sintonia.data.validate import validate, with_method, with_min_examples
from sintonia.domain.datasets import MIN_EXAMPLES, DatasetReport
from sintonia.domain.jobs import JobDraft
from sintonia.errors import FileNotFound, InvalidData, ServerError
from sintonia.jobs.context import WorkerContext
from sintonia.jobs.overlap import count_shared_rows
from sintonia.jobs.refusals import Refusals
from sintonia.runs.layout import RunFolder
from sintonia.runs.spec import DataRef
from sintonia.sealed import hash_file, sync_folder

TRAINING, VALIDATION = "training_file", "validation_file"
PROBLEMS_IN_ERROR = 3
"""A job's error tells so many problems of a file; its events tell the others."""

_NAMES = {TRAINING: "train.jsonl", VALIDATION: "valid.jsonl"}
_MIN_EXAMPLES = {TRAINING: MIN_EXAMPLES, VALIDATION: 1}


@dataclass(frozen=True)
class Data:
    """One file of a job, copied and checked."""

    ref: DataRef
    report: DatasetReport
    samples: Samples | None
    """Its encoded rows, where all of them are good and there is a model to read them."""


@dataclass(frozen=True)
class DataFiles:
    """Copies and checks the files of one job."""

    context: WorkerContext
    draft: JobDraft
    run: RunFolder
    renderer: Renderer | None
    """``None`` while the model is not known; rows are then checked without counting tokens."""

    def check(self, refusals: Refusals) -> dict[str, Data]:
        """Return the files by the name of the field that gives them; what is wrong is refused.

        Raises ``ServerError`` for a file that is not what was uploaded.
        """
        self.run.data.mkdir(parents=True, exist_ok=True)
        checked = {}
        for field, file_id in self._given().items():
            with refusals.collecting():
                data = self._check(field, file_id)
                checked[field] = data
                if not data.report.is_valid:
                    report = data.report
                    details = report.listing() if report.num_problems > 1 else ()
                    refusals.add(_problem_of(field, report), details)
        return checked

    def _given(self) -> dict[str, str]:
        given = {TRAINING: self.draft.training_file}
        if self.draft.validation_file is not None:
            given[VALIDATION] = self.draft.validation_file
        return given

    def _check(self, field: str, file_id: str) -> Data:
        path = self.run.data / _NAMES[field]
        sha256 = self._copy(field, file_id, path)
        report, samples = self._read(path, sha256)
        report = with_min_examples(report, _MIN_EXAMPLES[field], _words(field).capitalize())
        report = with_method(report, self.draft.method.type, file_id)
        # Relative to the run's folder, so that the folder can be moved.
        ref = DataRef(f"data/{path.name}", sha256, report.num_examples, file_id)
        return Data(ref, report, samples)

    def _read(self, path: Path, sha256: str) -> tuple[DatasetReport, Samples | None]:
        """Check a file; what the trainer will read of it is encoded on the way."""
        if self.renderer is None:
            return validate(path, min_examples=0), None
        rules = EncodingRules(self.renderer.context_tokens, self.draft.truncate)
        cache = self.context.settings.samples_folder
        return check_samples(path, sha256, self.renderer, rules, cache)

    def _copy(self, field: str, file_id: str, path: Path) -> str:
        """Copy a file into the run; return its hash."""
        try:
            file = self.context.store.files.get(file_id)
            self.context.store.files.copy_to(file_id, path)
        except FileNotFound:
            raise InvalidData(
                f"The job failed due to an invalid {_words(field)}. File {file_id} was deleted. "
                "Upload it again and make a new job.",
                param=field,
                code=f"invalid_{field}",
            ) from None
        sync_folder(path.parent)
        if hash_file(path) != file.sha256:
            raise ServerError(
                f"File {file_id}: its content is not what was uploaded. Upload it again.",
                param=field,
            )
        return file.sha256


def warnings_of(checked: Mapping[str, Data]) -> list[str]:
    """Return what is worth knowing of good files and does not stop a training."""
    warnings = [text for data in checked.values() for text in data.report.warnings]
    files = [checked[field].samples for field in (TRAINING, VALIDATION) if field in checked]
    match files:
        case [Samples() as training, Samples() as validation]:
            num_shared = count_shared_rows(training, validation)
            if num_shared:
                warnings.append(
                    f"The validation file shares {num_shared} of its {validation.num_rows} "
                    "examples with the training file: the validation loss will look better "
                    "than it is."
                )
    return warnings


def _problem_of(field: str, report: DatasetReport) -> InvalidData:
    """Return the error of a file that cannot be used: the first problems, and all counted."""
    is_short_only = report.num_problems == 1 and report.num_examples < MIN_EXAMPLES
    if field == TRAINING and is_short_only and report.problems[0].line is None:
        return InvalidData(report.problems[0].message, param=field, code="invalid_n_examples")
    message = (
        f"The job failed due to an invalid {_words(field)}. Invalid file format. "
        f"{report.summary(PROBLEMS_IN_ERROR)}"
    )
    if report.num_problems > PROBLEMS_IN_ERROR:
        message += ". The job's events name them one by one."
    return InvalidData(message, param=field, code=f"invalid_{field}")


def _words(field: str) -> str:
    return field.replace("_", " ")
