"""Preparing: what is wrong with a job's files is said at once; what is right becomes a plan."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from worker_kit import chat_rows, open_context, submit, texts, upload

from sintonia.data.renderer import Renderer
from sintonia.data.samples import EncodingRules, load_samples
from sintonia.domain.choices import extension_of
from sintonia.domain.jobs import EventLevel, JobStatus
from sintonia.domain.methods import Method
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.errors import DownloadFailed, ServerError
from sintonia.jobs.prepare import NotYet, prepare_job
from sintonia.runs.spec import read_spec
from sintonia.sealed import seal
from sintonia.store import ClaimLost, Stage


def prepare(context, store, **draft):
    """Make a job, prepare it, return it."""
    job = submit(store, **draft)
    prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))
    return store.jobs.get(job.id)


def refusal(context, store, job):
    """Prepare a job that cannot be done, return its error."""
    prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))
    job = store.jobs.get(job.id)
    assert job.status is JobStatus.FAILED
    return job.error


def test_a_good_job_gets_its_own_copy_of_the_data_and_a_plan(context, store, given):
    validation = upload(store, chat_rows(4, start=100))
    job = prepare(context, store, validation_file=validation, suffix="My Model!")
    assert job.status is JobStatus.QUEUED
    run = given.home / "runs" / job.id
    assert (run / "data" / "train.jsonl").read_bytes() == chat_rows(12)
    spec = read_spec(run / "spec.json")
    assert (spec.run_id, spec.seed, spec.n_epochs, spec.total_steps) == (job.id, 1, 3, 6)
    assert (spec.training.num_examples, spec.validation.num_examples) == (12, 4)
    assert spec.training.file_id == job.draft.training_file
    assert spec.lora.targets == ("q_proj", "up_proj")
    claim = store.queue.claim(Stage.RUNNING, "w", 30)
    assert claim.tuned_name.startswith("ft:tiny:personal:my-model:")
    assert texts(store, job.id)[1:] == [
        f"Validating training file: {job.draft.training_file} and validation file: {validation}",
        "Files validated, moving job to queued state",
    ]


def test_all_problems_of_a_file_fail_the_job_with_openais_words(context, store):
    rows = chat_rows(12).splitlines(keepends=True)
    rows[4] = b'{"messages": [{"role": "bot", "content": "x"}]}\n'
    rows[7] = b"not json\n"
    job = prepare(context, store, training=b"".join(rows))
    assert job.status is JobStatus.FAILED
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert job.error.message.startswith("The job failed due to an invalid training file. ")
    assert "Example 5" in job.error.message
    assert "Example 8" in job.error.message
    event = store.jobs.events(job.id, limit=1).items[0]
    assert (event.level, event.message) == (EventLevel.ERROR, job.error.message)


def test_every_problem_is_an_event_and_the_error_stays_short(context, store):
    rows = [b"not json\n" for _ in range(60)]
    job = prepare(context, store, training=b"".join(rows))
    assert "(57 more problems). The job's events name them one by one." in job.error.message
    assert job.error.message.count("Example") == 3
    newest, *events = store.jobs.events(job.id, limit=100).items
    assert newest.message == job.error.message
    told = [event.message for event in events if event.level is EventLevel.ERROR][::-1]
    assert [text.split()[1] for text in told[:50]] == [str(n) for n in range(1, 51)]
    assert told[50:] == ["And 10 more problems."]


def test_too_few_rows_have_a_code_of_their_own(context, store):
    job = prepare(context, store, training=chat_rows(7))
    assert job.error.code == "invalid_n_examples"
    assert job.error.message == (
        "Training file has 7 example(s), but must have at least 10 examples"
    )


def test_a_bad_validation_file_is_named(context, store):
    job = prepare(context, store, validation_file=upload(store, b"{}\n"))
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")
    assert "invalid validation file" in job.error.message


def test_a_row_longer_than_the_context_is_refused_by_row(context, store):
    rows = chat_rows(11) + chat_rows(1, start=11, answer="long " * 200)
    job = prepare(context, store, training=rows)
    assert job.error.code == "invalid_training_file"
    assert "Example 12" in job.error.message


def test_rows_in_both_files_are_warned_about(context, store):
    both = upload(store, chat_rows(3, start=9) + chat_rows(2, start=50))
    job = prepare(context, store, validation_file=both)
    assert job.status is JobStatus.QUEUED
    warnings = [e for e in store.jobs.events(job.id).items if e.level is EventLevel.WARN]
    assert any("shares 3 of its 5 examples" in event.message for event in warnings)


def test_a_preparation_that_is_done_again_tells_nothing_twice(context, store):
    job = submit(store)
    claim = store.queue.claim(Stage.PREPARING, "w", 0)
    store.queue.note(claim, f"Validating training file: {job.draft.training_file}")
    again = store.queue.claim(Stage.PREPARING, "v", 30)
    with pytest.raises(ClaimLost):
        prepare_job(context, claim)
    prepare_job(context, again)
    assert len(texts(store, job.id)) == len(set(texts(store, job.id))) == 3


def test_a_job_that_was_cancelled_meanwhile_is_left_alone(context, store):
    job = submit(store)
    claim = store.queue.claim(Stage.PREPARING, "w", 30)
    store.jobs.cancel(job.id)
    with pytest.raises(ClaimLost):
        prepare_job(context, claim)
    assert store.jobs.get(job.id).status is JobStatus.CANCELLED


def test_a_file_that_was_deleted_is_named(context, store):
    job = submit(store)
    store.files.delete(job.draft.training_file)
    error = refusal(context, store, job)
    assert (error.code, error.param) == ("invalid_training_file", "training_file")


def test_a_job_that_has_begun_keeps_its_own_copy_of_a_deleted_file(context, store):
    job = submit(store)
    with store.files.open(job.draft.training_file) as file:
        content = file.read()
    prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))
    store.files.delete(job.draft.training_file)
    assert (context.run_folder(job.id).data / "train.jsonl").read_bytes() == content


def test_bytes_that_changed_since_the_upload_are_noticed(context, store, given):
    job = submit(store)
    (given.home / "files" / job.draft.training_file).write_bytes(chat_rows(13))
    with pytest.raises(ServerError, match="not what was uploaded"):
        prepare_job(context, store.queue.claim(Stage.PREPARING, "w", 30))


def test_a_base_model_that_nobody_knows_cannot_be_tuned(context, store):
    error = refusal(context, store, submit(store, base_model="nothing"))
    assert (error.code, error.param) == ("model_not_available", "model")


def test_a_job_waits_for_its_base_model_and_says_so_once(store, given, tmp_path):
    missing = replace(given, embedded_wheel=str(tmp_path / "no.whl"))
    context = open_context(missing, store)
    name = "smollm2-135m-instruct"
    downloads = given.home / "downloads"
    downloads.mkdir(exist_ok=True)
    job = submit(store, base_model=name)
    problem = downloads / f"{name}.problem.json"
    problem.write_text(json.dumps({"message": "an old failure"}))
    claim = store.queue.claim(Stage.PREPARING, "w", 30)
    lock = (downloads / f"{name}.lock").open("ab")
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX)  # somebody fetches it already
    for _ in range(2):
        with pytest.raises(NotYet):
            prepare_job(context, claim)
    assert texts(store, job.id).count(f"Fetching base model: {name}") == 1
    problem.write_text(json.dumps({"message": "No network."}))
    lock.close()
    with pytest.raises(DownloadFailed, match="No network"):
        prepare_job(context, claim)


def make_parent(
    store, given, name="ft:tiny:personal::abcdefgh", base_sha256=None, targets=("up_proj",), **more
):
    """Register a tuned model over the tiny base; return it."""
    base = given.home / "models" / "base" / "tiny"
    work, folder = given.home / "parent.work", given.home / "models" / "tuned" / "ftjob-parent"
    work.mkdir()
    for copied in ("tokenizer.json", "chat_template.jinja", "sintonia.json"):
        (work / copied).write_bytes((base / copied).read_bytes())
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["up_proj"], **more}
    (work / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.model.layers.0.mlp.{}.lora_{}.weight"
    weights = {layer.format(t, "A"): np.zeros((4, 2), np.float32) for t in targets}
    weights |= {layer.format(t, "B"): np.zeros((2, 4), np.float32) for t in targets}
    save_file(weights, work / "adapter_model.safetensors")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sha256 = seal(work, folder)
    from sintonia.sealed import hash_file

    ref = BaseRef("tiny", str(base), base_sha256 or hash_file(base / "manifest.json"))
    model = Model(name, ModelKind.TUNED, 1, "personal", ref, str(folder), sha256, "ftjob-parent")
    store.models.add(model)
    return model


def test_continued_tuning_starts_from_a_copy_of_its_parent(context, store, given):
    parent = make_parent(store, given)
    job = prepare(context, store, parent_model=parent.name, model=parent.name)
    spec = read_spec(given.home / "runs" / job.id / "spec.json")
    assert (spec.parent.model, spec.parent.sha256) == (parent.name, parent.adapter_sha256)
    assert Path(spec.parent.folder).parent == given.home / "runs" / job.id
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.targets) == (4, 8.0, ("up_proj",))
    claim = store.queue.claim(Stage.RUNNING, "w", 30)
    assert claim.tuned_name.startswith("ft:tiny:personal::")
    assert claim.tuned_name != parent.name


def method_with(**choices) -> Method:
    return Method(choices=extension_of(choices).choices)


def test_what_was_chosen_is_in_the_plan_and_every_value_is_shown(context, store, given):
    method = method_with(lora={"rank": 2}, optimizer={"name": "lion"}, learn="last")
    job = prepare(context, store, method=method)
    spec = read_spec(given.home / "runs" / job.id / "spec.json")
    assert (spec.lora.rank, spec.optimizer.name, spec.sft.learns_last_only) == (2, "lion", True)
    shown = job.resolved["settings"]
    assert shown["lora"]["rank"] == 2
    assert shown["optimizer"]["beta2"] == 0.99
    assert shown["schedule"] == {"name": "linear", "warmup_steps": 6, "floor": 0.0}
    assert job.origins["lora.rank"] == job.origins["learn"] == "given"
    assert job.origins["lora.alpha"] == "derived"
    assert job.origins["optimizer.beta2"] == "default"
    assert job.draft.method == method, "the store gives back what was chosen"


def test_a_continued_tuning_of_another_shape_is_refused_by_name(context, store, given):
    parent = make_parent(store, given)
    method = method_with(lora={"rank": 8, "alpha": 8})
    job = submit(store, parent_model=parent.name, model=parent.name, method=method)
    error = refusal(context, store, job)
    assert re.search(r"Setting lora\.rank 8: .* has 4", error.message)
    assert error.param == "sintonia.lora.rank"


def test_a_parent_over_another_base_is_refused(context, store, given):
    parent = make_parent(store, given, base_sha256="0" * 64)
    job = submit(store, parent_model=parent.name, model=parent.name)
    assert "another tiny" in refusal(context, store, job).message


def test_a_parent_that_was_deleted_is_named(context, store, given):
    parent = make_parent(store, given)
    job = submit(store, parent_model=parent.name)
    store.models.delete(parent.name)
    assert parent.name in refusal(context, store, job).message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("alpha_pattern", {"up_proj": 32}),
        ("rank_pattern", {"up_proj": 8}),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "eva"),
        ("init_lora_weights", "loftq"),
        ("bias", "all"),
    ],
)
def test_a_parent_that_would_start_from_other_weights_is_refused(context, store, given, key, value):
    parent = make_parent(store, given, **{key: value})
    error = refusal(context, store, submit(store, parent_model=parent.name, model=parent.name))
    assert "only plain LoRA can be continued" in error.message
    assert parent.name in error.message


def test_a_parents_layers_are_those_of_its_tensors(context, store, given):
    parent = make_parent(
        store, given, targets=("up_proj", "down_proj"), target_modules=r".*\.(up|down)_proj"
    )
    job = prepare(context, store, parent_model=parent.name, model=parent.name)
    spec = read_spec(given.home / "runs" / job.id / "spec.json")
    assert spec.lora.targets == ("down_proj", "up_proj")


def test_a_parent_of_another_rank_than_it_says_is_refused(context, store, given):
    parent = make_parent(store, given, r=8)
    job = submit(store, parent_model=parent.name, model=parent.name)
    assert "lora_A" in refusal(context, store, job).message


def test_a_parent_whose_folder_is_gone_is_named(context, store, given):
    parent = make_parent(store, given)
    shutil.rmtree(parent.folder)
    error = refusal(context, store, submit(store, parent_model=parent.name, model=parent.name))
    assert "gone from the server's disk" in error.message
    assert parent.name in error.message


def test_the_model_the_settings_and_both_files_are_refused_at_once(context, store, given):
    parent = make_parent(store, given, base_sha256="0" * 64)
    rows = chat_rows(12).splitlines(keepends=True)
    rows[4] = b"not json\n"
    rows[7] = chat_rows(1, answer="long " * 200)
    method = method_with(lora={"targets": ["w_magic"]}, schedule={"warmup_steps": 500})
    job = prepare(
        context,
        store,
        training=b"".join(rows),
        validation_file=upload(store, b"[]\n{}\n"),
        parent_model=parent.name,
        model=parent.name,
        method=method,
    )
    assert job.status is JobStatus.FAILED
    assert (job.error.code, job.error.param) == ("model_not_available", "model")
    places = ("another tiny", "invalid training file. Example 5", "Example 8 has")
    settings = ("Setting lora.targets w_magic", "Setting schedule.warmup_steps 500")
    for told in (*places, "invalid validation file", *settings):
        assert told in job.error.message
    details = [e.message for e in store.jobs.events(job.id).items if e.level is EventLevel.ERROR]
    assert any(text.startswith("Example 8 has") for text in details)


def test_the_trainer_finds_encoded_what_the_preparation_checked(context, store, given):
    job = prepare(context, store)
    spec = read_spec(given.home / "runs" / job.id / "spec.json")
    caches = [path for path in Path(spec.cache_folder).iterdir() if path.is_dir()]
    assert [(path / "tokens.npy").exists() for path in caches] == [True]
    path = given.home / "runs" / job.id / spec.training.path
    renderer = Renderer.from_folder(Path(spec.base.folder))
    rules = EncodingRules(spec.context_tokens, spec.truncate)
    path.unlink()  # nothing is read again
    samples = load_samples(path, spec.training.sha256, renderer, rules, caches[0].parent)
    assert samples.num_rows == 12
