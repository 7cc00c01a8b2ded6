"""A model whose every weight is trained, in the layout that transformers loads.

Weights that the family ties stay one tensor, and are written once.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from sintonia.models.stored import load_stored


def train_everything(model: PreTrainedModel) -> None:
    """Let every weight of ``model`` learn, embeddings too."""
    model.requires_grad_(requires_grad=True)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write ``config.json`` and the weights as safetensors."""
    model.save_pretrained(folder)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Put back the weights that :func:`save` wrote, into the same tensors."""
    stored = load_stored(folder, torch.float32)
    model.load_state_dict(stored.state_dict())
