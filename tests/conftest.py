"""Tiny real models that many tests use: random weights, a real tokenizer, a real folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny_tokenizer_json() -> str:
    """A byte-level BPE without merges: 256 bytes and ChatML's tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_json: str) -> Path:
    """A Hugging Face folder with a random Llama of two layers."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny("llama", folder, tiny_tokenizer_json)
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A home whose library has the random Llama under the name ``tiny``."""
    from sintonia import catalog
    from sintonia.bases.library import Library

    home = tmp_path_factory.mktemp("home")
    Library(home, catalog.load()).add("tiny", tiny_folder)
    return home


@pytest.fixture(scope="session")
def embedded_home() -> Path:
    """A home with the embedded model, kept between test runs beside the environment."""
    from sintonia import catalog
    from sintonia.bases.library import Library

    home = Path(__file__).parents[1] / ".test-home"
    home.mkdir(exist_ok=True)
    Library(home, catalog.load()).fetch("smollm2-135m-instruct", lambda _what, _part: None)
    return home
