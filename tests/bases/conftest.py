"""A home's library, and folders to take in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sintonia import catalog
from sintonia.bases.library import Library


@pytest.fixture
def library(tmp_path) -> Library:
    home = tmp_path / "home"
    home.mkdir()
    return Library(home, catalog.load())


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "given"))


@pytest.fixture
def adapter(tiny_folder, tmp_path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"
