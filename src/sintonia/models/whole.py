"""A model whose every weight is trained, in the layout that transformers loads.

Weights that the family ties stay one tensor, and are written once.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sintonia.models.load import check_complete


def train_everything(model: PreTrainedModel) -> None:
    """Let every weight of ``model`` learn, embeddings too."""
    model.requires_grad_(requires_grad=True)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write ``config.json`` and the weights as safetensors."""
    model.save_pretrained(folder)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Put back the weights that :func:`save` wrote, into the same tensors."""
    stored, loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    check_complete(folder.name, loaded)
    model.load_state_dict(stored.state_dict())
