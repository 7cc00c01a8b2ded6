"""Which adapters of PEFT are plain LoRA: ``y = x (W + s B A)^T`` over the base's own ``W``.

Anything else would be served or tuned as another model than the one that was trained. The
layers an adapter covers are told by its tensors, so patterns and lists of layers need no rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_UNLIKE_LORA = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)
"""Options that scale, shape or add to the update otherwise."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
"""Other initialisations (PiSSA, OLoRA, CorDA, LoftQ ...) change the base's weights or its ranks."""


def unlike_lora(config: Mapping[str, Any]) -> str | None:
    """Return what makes an ``adapter_config.json`` other than plain LoRA, or ``None``."""
    if config.get("peft_type") != "LORA":
        return f"its kind is {config.get('peft_type')!r}, only 'LORA' is served"
    used = [key for key in _UNLIKE_LORA if config.get(key)]
    if used:
        return f"it uses {', '.join(used)}, which is not served"
    if config.get("bias", "none") != "none":
        return "it trained biases (bias), which are not served"
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        return f"it began with init_lora_weights={start!r}, which may alter the base's weights"
    return _wrong_size(config)


def scale_of(config: Mapping[str, Any]) -> float:
    """Return ``s`` of a plain adapter: ``alpha / r``, for rsLoRA ``alpha / sqrt(r)``."""
    rank, alpha = config["r"], config["lora_alpha"]
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _wrong_size(config: Mapping[str, Any]) -> str | None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        return f"its rank r={rank!r} is no positive whole number"
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        return f"its lora_alpha={alpha!r} is no positive number"
    return None
