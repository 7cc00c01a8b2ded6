"""What learns, as it stands before the first step: the base with an adapter, or all of the base.

Invariant: training begins at the very weights that the plan names, or not at all.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from sintonia.errors import RefusedModel
from sintonia.models import adapters, attention, decoder, products, whole
from sintonia.models.compiled import check_compiler, compile_layers
from sintonia.models.flex import flex_on
from sintonia.models.learning import recompute_layers
from sintonia.models.load import Place, load_base
from sintonia.models.policy import Policy
from sintonia.models.quantized import check_installed, count_layers
from sintonia.runs.plan import linear_layers
from sintonia.runs.spec import LoraSettings, Origin, Precision, Quantization, TrainSpec
from sintonia.sealed import MANIFEST, hash_file, read_json, verify
from sintonia.training.checkpoint import Learner, Progress
from sintonia.training.model_card import CARD
from sintonia.training.optimizer import build_optimizer
from sintonia.training.reporter import Reporter


def begin(spec: TrainSpec, device: str) -> Learner:
    """Load what ``spec`` starts from.

    Raises ``RefusedModel`` for weights that are not the planned ones, or not for this base, and
    ``InvalidValue`` for an adapter that cannot be made.
    """
    _check(spec, device)  # before a model is loaded
    is_rounded = spec.precision is Precision.BFLOAT16
    model = load_base(Path(spec.base.folder), _place(spec, device))
    parent = _parent_adapter(spec)
    if spec.lora is None:
        _train_everything(model, parent)
    else:
        _adapt(model, spec, spec.lora, parent)
    if spec.gradient_checkpointing:
        recompute_layers(model)
    if spec.compile:
        compile_layers(model)
    policy = Policy(model, rounds_products=is_rounded and spec.lora is None)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return Learner(policy, build_optimizer(trained, spec.optimizer), Progress())


def tell_kind(spec: TrainSpec, policy: Policy, reporter: Reporter) -> None:
    """Tell in events what differs from the usual way to compute."""
    if spec.quantization is Quantization.NF4:
        narrow, every = count_layers(policy.model, linear_layers(Path(spec.base.folder)))
        reporter.event(
            f"{narrow} of the base's {every} linear layers are kept in four bits (nf4) while the "
            "adapter trains over them; the adapter is saved as usual and served over the base as "
            "it is stored."
        )
    if spec.compile:
        reporter.event("Layers are compiled as they are met: the first steps take longer.")
    problem = flex_on(policy.device.type).problem
    if problem:
        reporter.event(
            f"FlexAttention cannot be compiled here ({problem}): attention goes through a mask of "
            "all pairs, which takes more memory and time. Install Triton and a C compiler.",
            "warn",
        )


def shares_prefixes(spec: TrainSpec, policy: Policy, reporter: Reporter) -> bool:
    """Tell whether rows may share what they begin with; if not, an event says why."""
    if not attention.is_used_by(policy.model):
        reporter.event(
            f"{type(policy.model).__name__} cannot compute several rows together exactly: each row "
            "is computed by itself, and prefixes are not shared. Training takes longer."
        )
        return False
    if spec.lora is not None and spec.lora.dropout:
        reporter.event(
            f"LoRA dropout {spec.lora.dropout:g} makes rows differ that begin alike: prefixes are "
            "not shared. Training takes longer."
        )
        return False
    return True


def _check(spec: TrainSpec, device: str) -> None:
    """Raise ``InvalidValue`` for what cannot be made, or not on this machine."""
    if spec.lora is not None:
        adapters.check(spec.lora)
    if spec.quantization is Quantization.NF4:
        check_installed()
    if spec.compile:
        check_compiler(device)


def _place(spec: TrainSpec, device: str) -> Place:
    """Return how the base is loaded.

    Rounded weights would lose what full tuning adds to them: there only products are rounded.
    """
    is_rounded = spec.precision is Precision.BFLOAT16 and spec.lora is not None
    is_quantized = spec.quantization is Quantization.NF4
    return Place(
        torch.bfloat16 if is_rounded else torch.float32,
        device,
        linear_layers(Path(spec.base.folder)) if is_quantized else (),
    )


def _adapt(
    model: PreTrainedModel, spec: TrainSpec, lora: LoraSettings, parent: Path | None
) -> None:
    are_guessed = spec.origins.get("lora.targets") is not Origin.GIVEN
    adapters.attach(model, lora, are_guessed=are_guessed)
    if parent is None:
        adapters.reset(model, spec.seed)
    else:
        adapters.load(model, parent)
    if spec.compile or model.device.type != "cpu":  # what follows is a processor's own code
        return
    if not spec.gradient_checkpointing:  # fused layers keep little, but more than nothing
        decoder.fuse(model)
    products.quicken(model)


def _train_everything(model: PreTrainedModel, parent: Path | None) -> None:
    if parent is not None:
        adapters.add_to_weights(model, parent)
    whole.train_everything(model)


def _parent_adapter(spec: TrainSpec) -> Path | None:
    """Return the folder of the adapter that training goes on from, seen to be the planned one.

    A parent whose every weight was tuned is the base itself.
    """
    parent = spec.parent
    if parent is None or parent.sha256 == spec.base.sha256:
        return None
    folder = Path(parent.folder)
    verify(folder)
    if hash_file(folder / MANIFEST) != parent.sha256:
        raise RefusedModel(
            f"Model {parent.model}, which training goes on from, changed since the job "
            "was planned. Make a new job."
        )
    base = read_json(folder / CARD).get("base", {}) if (folder / CARD).is_file() else {}
    if base.get("sha256", spec.base.sha256) != spec.base.sha256:
        raise RefusedModel(
            f"Model {parent.model}, which training goes on from, is an adapter for another base "
            f"({base.get('name')}) than {spec.base.name}. Start from its own base."
        )
    return folder
