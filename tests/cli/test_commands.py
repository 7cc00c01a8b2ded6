"""Commands as a user types them: help, settings, data check, and every mistake in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sintonia import cli
from sintonia import settings as settings_module
from sintonia.cli.app import app
from sintonia.domain.models import BaseRef, Model, ModelKind
from sintonia.store import Store

COMMANDS = [
    (),
    ("serve",),
    ("stop",),
    ("demo",),
    ("finetune",),
    ("chat",),
    ("distill",),
    ("gc",),
    ("settings",),
    ("version",),
    ("jobs",),
    *(("jobs", name) for name in ("list", "show", "follow", "logs", "cancel", "pause", "resume")),
    ("files",),
    *(("files", name) for name in ("list", "upload", "show", "download", "delete")),
    ("models",),
    *(("models", name) for name in ("list", "pull", "add", "delete")),
    ("data",),
    ("data", "check"),
    ("migrate",),
    *(("migrate", name) for name in ("openai", "rerun")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command, home):
    result = CliRunner().invoke(app, [*command, "--help"])

    assert result.exit_code == 0
    assert "Usage: sintonia" in result.output.replace("Usage: root", "Usage: sintonia")
    assert not home.exists(), "asking for help must not touch the home"


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, output and errors."""
    code = cli.main(list(arguments))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_settings_show_value_and_origin(home, monkeypatch, capfd):
    home.mkdir()
    (home / "sintonia.toml").write_text('trainers = 3\n[aliases]\n"gpt-9" = "mine"\n')
    monkeypatch.setenv("SINTONIA_PORT", "8123")

    code, out, _ = run(capfd, "settings")

    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0
    assert "8123" in rows["port"]
    assert "environment" in rows["port"]
    assert "file" in rows["trainers"]
    assert "default" in rows["host"]
    assert "mine" in rows["aliases.gpt-9"]


def test_a_good_file_passes_the_check_without_a_server(home, good_file, capfd):
    code, out, err = run(capfd, "data", "check", str(good_file))

    assert code == 0
    assert "good to train on" in out
    assert "sintonia models pull" in err
    assert not (home / "server.lock").exists()


def test_a_bad_file_fails_the_check_with_every_place(home, bad_file, capfd):
    code, out, _ = run(capfd, "data", "check", str(bad_file))

    assert code == 1
    assert "2 problems" in out
    assert "line 4" in out
    assert "line 8" in out
    assert "Example 4, message 1" in out


def test_a_model_that_nobody_knows_is_named(home, good_file, capfd):
    code, _, err = run(capfd, "data", "check", str(good_file), "--model", "gpt-nothing")

    assert code == 1
    assert err.startswith("Error: The model `gpt-nothing` does not exist")


def test_finetune_refuses_a_bad_file_before_it_starts_a_server(home, bad_file, capfd):
    code, _, err = run(capfd, "finetune", str(bad_file))

    assert code == 1
    assert "line 4" in err
    assert "Error:" in err
    assert "sintonia data check" in err
    assert not home.exists()


def test_finetune_calls_a_bad_validation_file_what_it_is(home, good_file, tmp_path, capfd):
    empty = tmp_path / "empty.jsonl"
    empty.touch()

    code, _, err = run(capfd, "finetune", str(good_file), "--valid", str(empty))

    assert code == 1
    assert "Validation file has 0 example(s)" in err
    assert "Training file" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("finetune", "nothing.jsonl"),
        ("finetune",),
        ("jobz",),
        ("serve", "--port", "99999"),
        ("demo", "--language", "fr"),
    ],
)
def test_wrong_usage_ends_with_two_and_no_traceback(arguments, home, capfd):
    code, out, err = run(capfd, *arguments)

    assert code == 2
    assert "Usage" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--host", "0.0.0.0"), "API keys"),
        (("jobs", "list", "--server", "localhost:8000"), "must be a URL"),
        (("jobs", "list", "--server", "http://127.0.0.1:9"), "No server answers"),
        (("models", "pull", "gpt-nothing"), "does not exist"),
        (("demo", "--data", "/nowhere"), "train.jsonl"),
    ],
)
def test_a_mistake_is_one_error_in_words(arguments, words, home, capfd):
    code, _, err = run(capfd, *arguments)

    assert code == 1
    assert err.startswith("Error: ")
    assert words in err
    assert "Traceback" not in err


def test_a_broken_settings_file_is_one_error_in_words(home, capfd):
    home.mkdir()
    (home / "sintonia.toml").write_text("port = [")

    code, _, err = run(capfd, "settings")

    assert (code, err.startswith("Error: sintonia.toml cannot be read")) == (1, True)


def test_what_the_machine_refuses_is_told_in_words(home, capfd):
    def no_room() -> None:
        raise OSError(28, "No space left on device", "somewhere")

    assert cli.guarded(no_room) == 1
    assert capfd.readouterr().err == "Error: somewhere: No space left on device.\n"


def test_a_fault_of_ours_leaves_its_traceback_in_the_log(home, capfd):
    def fault() -> None:
        raise KeyError("a bug")

    log = home / "logs" / "cli.log"
    assert cli.guarded(fault) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert str(log) in err
    assert "KeyError: 'a bug'" in log.read_text()


@pytest.mark.parametrize("home_in_force", ["~nobody-of-this-name/home", None])
def test_a_fault_is_told_even_when_no_log_can_be_written(home_in_force, home, monkeypatch, capfd):
    (home / "logs" / "cli.log").mkdir(parents=True)
    if home_in_force:
        monkeypatch.setenv("SINTONIA_HOME", home_in_force)

    def fault() -> None:
        raise KeyError("a bug")

    assert cli.guarded(fault) == 1
    err = capfd.readouterr().err
    assert err.startswith("Error: Something went wrong in Sintonia itself. It was KeyError")
    assert "Traceback" not in err


@pytest.mark.parametrize("multiplier", ["nan", "inf", "-inf", "0", "-1"])
def test_finetune_refuses_a_multiplier_that_is_no_positive_number(
    multiplier, home, good_file, capfd
):
    option = f"--learning-rate-multiplier={multiplier}"

    code, _, err = run(capfd, "finetune", str(good_file), option)

    assert code == 1
    assert err.startswith("Error: --learning-rate-multiplier ")
    assert "finite number above 0" in err
    assert not home.exists()


def test_chat_refuses_a_temperature_that_is_no_number(home, capfd):
    code, _, err = run(capfd, "chat", "m", "hello", "--temperature", "nan")

    assert (code, err) == (1, "Error: --temperature nan: must be a finite number.\n")


@pytest.mark.parametrize(
    ("piped", "words"), [(b"ol\xe1", "byte 3 is not UTF-8"), (b" \n", "is empty")]
)
def test_chat_says_what_is_wrong_with_a_piped_prompt(piped, words, home):
    command = [sys.executable, "-m", "sintonia.cli", "chat", "m"]

    result = subprocess.run(command, input=piped, capture_output=True, check=False)

    assert result.returncode == 1
    assert result.stderr.decode().startswith("Error: The prompt on standard input")
    assert words in result.stderr.decode()
    assert not home.exists()


def test_a_base_may_not_take_the_name_of_a_tuned_model(home, tmp_path, capfd):
    home.mkdir()
    base = BaseRef("tiny", str(tmp_path), "0" * 64)
    with closing(Store.open(settings_module.load())) as store:
        store.models.add(Model("mine", ModelKind.TUNED, 1, "user", base))

    code, _, err = run(capfd, "models", "add", "mine", str(tmp_path))

    assert (code, err.startswith("Error: Model name 'mine' is taken")) == (1, True)


def test_stop_says_that_nothing_runs(home, capfd):
    code, out, _ = run(capfd, "stop")

    assert (code, "No server runs" in out) == (0, True)


def test_starting_up_imports_neither_torch_nor_the_database(home):
    program = "import sys, sintonia.cli; print([m for m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    for heavy in ("'torch'", "'transformers'", "'sqlalchemy'", "'openai'", "'fastapi'"):
        assert heavy not in output


def test_python_m_runs_the_same_command(home: Path):
    command = [sys.executable, "-m", "sintonia.cli", "version"]

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout.split()[0]) == (0, "sintonia")


@pytest.fixture
def pairs_file(tmp_path):
    answer = {"role": "assistant", "content": "Gladly."}
    pair = {
        "input": {"messages": [{"role": "user", "content": "Help?"}]},
        "preferred_output": [answer],
        "non_preferred_output": [answer | {"content": "No."}],
    }
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([json.dumps(pair)] * 12))
    return path


def test_the_check_of_preferences_names_their_method(home, pairs_file, capfd):
    code, out, _ = run(capfd, "data", "check", str(pairs_file))

    assert code == 0
    assert re.search(r"format\s+preference", out)
    assert re.search(r"method\s+dpo", out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{pairs}", "--method", "supervised"], "not using 'dpo' as the training method"),
        (["{good}", "--method", "dpo"], "not using 'supervised' as the training method"),
        (["{pairs}", "--valid", "{good}"], "good.jsonl is in the fine-tune-chat format"),
        (["{good}", "--beta", "0.1"], "--beta 0.1: method supervised has none. Leave it out."),
        (["{pairs}", "--beta", "0"], "--beta 0: must be a finite number above 0."),
    ],
)
def test_finetune_refuses_what_is_not_of_the_method(
    home, good_file, pairs_file, arguments, words, capfd
):
    given = [text.format(pairs=pairs_file, good=good_file) for text in arguments]
    code, _, err = run(capfd, "finetune", *given)

    assert code == 1
    assert words in " ".join(err.split())
    assert not home.exists()


def test_finetune_tells_what_is_wrong_with_both_files_and_the_settings_at_once(
    home, bad_file, tmp_path, capfd
):
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    options = ("--rank", "0", "--learning-rate", "-1", "--set", "optimizer.momentum=0.5")
    code, _, err = run(capfd, "finetune", str(bad_file), "--valid", str(other), *options)
    assert code == 1
    told = " ".join(err.split())
    for words in ("bad.jsonl: it cannot", "other.jsonl: it cannot", "line 4", "Unexpected file"):
        assert words in told
    for words in (
        "Setting lora.rank 0",
        "--learning-rate -1",
        "optimizer.momentum: adamw has none",
    ):
        assert words in told
    assert not home.exists()


def test_finetune_refuses_a_setting_by_name_before_it_needs_a_server(home, good_file, capfd):
    code, _, err = run(capfd, "finetune", str(good_file), "--rank", "0", "--set", "lora.r=8")
    assert code == 1
    assert "Setting lora.rank 0" in err
    assert "Setting lora.r 8" in err
    assert not home.exists()
