"""Each token where TRL's own rendering of a row differs from ours, and why.

A list that grows or shrinks fails: whatever TRL writes or learns otherwise than we do is a
difference somebody has looked at, with its reason in ``docs/training.md``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from trl_cases import CASES, TWO, Case, Why, chat

from sintonia import catalog
from sintonia.bases.library import Library
from sintonia.data.renderer import Renderer, RendererFiles
from sintonia.data.validate import iter_examples
from sintonia.domain.examples import Example
from sintonia.sealed import read_json

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
STATES = {True: "learned", False: "read", None: "absent"}
Token = tuple[int, bool]
"""An id, and whether its place is learned."""


@pytest.fixture(scope="module")
def folder(embedded_home) -> Path:
    base = Library(embedded_home, catalog.load()).find("smollm2-135m-instruct")
    assert base is not None
    return Path(base.ref.folder)


def template_of(case: Case, folder: Path) -> str:
    import trl

    if case.template is None:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    own = Path(trl.__file__).parent / "chat_templates" / f"{case.template}.jinja"
    return own.read_text(encoding="utf-8")


def read(row: Mapping[str, Any], folder: Path) -> Example:
    path = folder / "row.jsonl"
    path.write_text(json.dumps(row))
    ((_, example),) = iter_examples(path)
    return example


def our_lines(case: Case, folder: Path, work: Path) -> list[list[Token]]:
    """Return what we read and learn; a chat's turns laid over each other as one line."""
    facts = read_json(folder / "sintonia.json")
    files = RendererFiles(
        tokenizer_json=(folder / "tokenizer.json").read_bytes(),
        template=template_of(case, folder),
        context_tokens=facts["context_tokens"],
        stop_tokens=tuple(facts["stop_tokens"]),
        bos_token=facts["bos_token"],
    )
    sequences = Renderer(files).sequences(read(case.row, work))
    if "input" in case.row:
        return [line_of([sequence]) for sequence in sequences]
    return [line_of(sequences)]


def line_of(sequences) -> list[Token]:
    *earlier, longest = sorted(sequences, key=len)
    ids = [*longest.prompt_ids, *longest.answer_ids]
    learned = set(range(len(longest.prompt_ids), len(ids)))
    for sequence in earlier:
        assert ids[: len(sequence)] == [*sequence.prompt_ids, *sequence.answer_ids]
        learned |= set(range(len(sequence.prompt_ids), len(sequence)))
    return [(token, place in learned) for place, token in enumerate(ids)]


def their_lines(case: Case, folder: Path, work: Path) -> list[list[Token]]:
    """Return what TRL's trainer makes of the row before it trains."""
    prepared = trainer_of(case, folder, work).train_dataset[0]
    if "chosen_ids" in prepared:
        prompt = [(token, False) for token in prepared["prompt_ids"]]
        answers = (prepared["chosen_ids"], prepared["rejected_ids"])
        return [prompt + [(token, True) for token in answer] for answer in answers]
    labels = [
        False,
        *(label != -100 for label in prepared["labels"][1:]),
    ]  # nothing predicts the first
    return [list(zip(prepared["input_ids"], labels, strict=True))]


def trainer_of(case: Case, folder: Path, work: Path):
    """Return TRL's trainer on this one row; which weights it has does not matter."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template_of(case, folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model("llama", **sizes, **heads)
    is_pair = "chosen" in case.trl_row
    trainer, settings = (DPOTrainer, DPOConfig) if is_pair else (SFTTrainer, SFTConfig)
    given = {"max_length": None, **case.options}
    args = settings(str(work), use_cpu=True, bf16=False, report_to="none", **given)
    return trainer(
        model=AutoModelForCausalLM.from_config(config),
        args=args,
        train_dataset=Dataset.from_list([dict(case.trl_row)]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=1, target_modules=["q_proj"]),
    )


def aligned(ours: list[Token], theirs: list[Token]) -> Iterator[tuple[int, str, str]]:
    """Yield each token with what it is to us and to them."""
    ids = [token for token, _ in ours], [token for token, _ in theirs]
    for kind, a, b, c, d in SequenceMatcher(None, *ids, autojunk=False).get_opcodes():
        if kind == "equal":
            for (token, is_ours), (_, is_theirs) in zip(ours[a:b], theirs[c:d], strict=True):
                yield token, STATES[is_ours], STATES[is_theirs]
            continue
        for token, is_learned in ours[a:b]:
            yield token, STATES[is_learned], STATES[None]
        for token, is_learned in theirs[c:d]:
            yield token, STATES[None], STATES[is_learned]


def gaps_between(ours: list[Token], theirs: list[Token], text_of) -> list[tuple[str, str, str]]:
    return [
        ("¦".join(text_of(token) for token, _, _ in run), mine, other)
        for (mine, other), run in groupby(aligned(ours, theirs), key=lambda one: one[1:])
        if mine != other
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_difference_to_trls_rendering_is_known(case, folder, tmp_path):
    from transformers import AutoTokenizer

    text_of = AutoTokenizer.from_pretrained(folder).decode
    pairs = zip(our_lines(case, folder, tmp_path), their_lines(case, folder, tmp_path), strict=True)
    found = [gap for ours, theirs in pairs for gap in gaps_between(ours, theirs, text_of)]
    for tokens, ours, theirs in found:
        sys.stdout.write(f"{tokens!r}: {ours} by us, {theirs} by TRL\n")
    assert found == [(gap.tokens, gap.ours, gap.theirs) for gap in case.gaps]


def test_trl_refuses_to_learn_answers_only_by_a_template_that_it_does_not_know(folder, tmp_path):
    case = replace(chat("our template", TWO), options={"assistant_only_loss": True})
    with pytest.raises(ValueError, match="patching is not supported"):
        trainer_of(case, folder, tmp_path)


def test_every_reason_is_met_and_explained():
    met = {gap.why for case in CASES for gap in case.gaps}
    assert met == set(Why)
    explained = DOCS.read_text(encoding="utf-8")
    assert not [why for why in Why if f"| {why} |" not in explained]
