"""The docs name what exists: settings, commands, errors' places, links, the README's example."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from typer.main import get_command

from sintonia import errors
from sintonia.cli.app import app
from sintonia.domain.choices import (
    EarlyStoppingChoices,
    Extension,
    LoraChoices,
    OptimizerChoices,
    ScheduleChoices,
)
from sintonia.domain.methods import Hyperparameters
from sintonia.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(group, prefix: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        path = f"{prefix}{name}"
        found += commands(command, f"{path} ") if hasattr(command, "commands") else [path]
    return found


def test_every_setting_is_described():
    text = (ROOT / "docs" / "settings.md").read_text()
    names = {field.name for field in dataclasses.fields(Settings)} - {"origins"}
    assert not [name for name in names if f"`{name}`" not in text and f"[{name}]" not in text]


def test_every_command_is_described():
    text = (ROOT / "docs" / "cli.md").read_text()
    assert not [name for name in commands(get_command(app)) if f"sintonia {name}" not in text]


def test_every_hyperparameter_is_described():
    text = (ROOT / "docs" / "hyperparameters.md").read_text()
    names = [field.name for field in dataclasses.fields(Hyperparameters)]
    assert not [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("outer", "kind"),
    [
        ("", Extension),
        ("lora.", LoraChoices),
        ("optimizer.", OptimizerChoices),
        ("schedule.", ScheduleChoices),
        ("early_stopping.", EarlyStoppingChoices),
    ],
)
def test_every_choice_is_described(outer, kind):
    text = (ROOT / "docs" / "hyperparameters.md").read_text()
    objects = {"lora", "optimizer", "schedule"}
    names = {field.name for field in dataclasses.fields(kind)} - objects
    assert not [n for n in names if f"`{outer}{n}`" not in text and f"`{n}`" not in text]


def test_every_error_code_is_described():
    text = (ROOT / "docs" / "api.md").read_text()
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    codes = {c.default_code for c in classes if issubclass(c, errors.SintoniaError)}
    assert not sorted(code for code in codes - {None} if f"`{code}`" not in text)


def test_every_code_that_the_api_writes_is_described():
    text = (ROOT / "docs" / "api.md").read_text()
    sources = (ROOT / "src" / "sintonia" / "api").rglob("*.py")
    codes = {code for s in sources for code in re.findall(r'\bcode="(\w+)"', s.read_text())}
    assert len(codes) > 10
    assert not sorted(code for code in codes if f"`{code}`" not in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    folders = "src|tests|docs|examples|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_python_in_the_readme_is_python():
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        ast.parse(block)
