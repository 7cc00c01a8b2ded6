"""Compiled layers compute what plain ones do, and are compiled for no forest in particular."""

from __future__ import annotations

import pytest
import torch
from test_forest_exact import rows
from torch._dynamo.utils import counters
from transformers import AttentionInterface

from sintonia.data.forest import build_forest
from sintonia.errors import InvalidValue
from sintonia.models import adapters, attention, flex
from sintonia.models.attention import ForestOnDevice
from sintonia.models.compiled import check_compiler, compile_layers
from sintonia.models.learning import learning
from sintonia.models.load import load_base
from sintonia.models.policy import Policy
from sintonia.objectives.sft import Supervised
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings
from tiny_models import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""Dynamo looks at everything that a frame holds."""


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    try:
        check_compiler("cpu")
    except InvalidValue as problem:
        pytest.skip(str(problem))


def policy_of(folder, dropout: float = 0.0) -> Policy:
    model = load_base(folder)
    targets = linear_layers(folder)
    adapters.attach(model, LoraSettings(rank=4, alpha=8, dropout=dropout, targets=targets))
    adapters.reset(model, seed=1)
    return Policy(model)


def learn(policy: Policy) -> list[tuple[float, int]]:
    """Return the loss of a few steps on forests of different sizes, and the graphs after each."""
    learned = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    found = []
    for step in range(5):
        forest = build_forest(rows(seed=step, count=4 + 3 * step))
        with learning(policy.model, seed=0, step=step):
            output = Supervised().loss(policy, forest)
            (output.total / output.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append((output.measured / output.count, counters["stats"]["unique_graphs"]))
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_compiled_layers_learn_as_plain_ones_do(family, tmp_path, tiny_tokenizer_json):
    save_tiny(family, tmp_path / "model", tiny_tokenizer_json)
    plain = learn(policy_of(tmp_path / "model"))
    policy = policy_of(tmp_path / "model")
    compile_layers(policy.model)
    try:
        compiled = learn(policy)
    finally:
        attention.register()
    assert [loss for loss, _ in compiled] == pytest.approx([loss for loss, _ in plain], rel=1e-5)
    graphs = [number for _, number in compiled]
    assert graphs[0] > plain[-1][1], "something is compiled"
    assert graphs[-1] == graphs[0], "and nothing anew for forests of other sizes"


def test_attention_between_compiled_layers_is_compiled_in_its_own_way():
    attention.keep_out_of_graphs()
    try:
        forest = build_forest(rows()).filled_to(flex.TILE)
        seen = []

        def run(query, *_projected, **_how):
            seen.append(torch._dynamo.config.assume_static_by_default)
            return query, None

        pattern = ForestOnDevice(forest, torch.device("cpu"), flex=run)
        part = torch.zeros(1, 2, forest.num_tokens, 16)
        with torch._dynamo.config.patch(assume_static_by_default=False):  # as in such a layer
            attend = AttentionInterface()[attention.NAME]
            attend(torch.nn.Identity(), part, part, part, None, forest=pattern)
        assert seen == [True]
    finally:
        attention.register()
