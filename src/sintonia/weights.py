"""What safetensors files hold, read from their headers: no weight is loaded, no torch is needed.

The files of a model are the ones that transformers loads: ``model.safetensors``, or the shards
that ``model.safetensors.index.json`` names. Whatever lies beside them is no part of it.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from sintonia.errors import RefusedModel
from sintonia.sealed import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shape = tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of the model in ``folder``, all of them there.

    Raises ``RefusedModel`` when there are none, or when the index is damaged or names a shard
    that is missing or outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise RefusedModel(f"It has neither {WEIGHTS} nor shards with {INDEX}.")
    names = _shards(folder / INDEX)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise RefusedModel(
            f"{INDEX} names files that are missing: {', '.join(missing[:3])}. Fetch them too."
        )
    return [folder / name for name in names]


def tensor_shapes(path: Path) -> dict[str, Shape]:
    """Return the shape of each tensor of a file, by name.

    Raises ``RefusedModel`` unless the header is sound and the file as long as it says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return {n: tuple(tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise RefusedModel(
            f"{path.name} is not a whole safetensors file ({problem}). Fetch it again."
        ) from None


def model_shapes(folder: Path) -> dict[str, Shape]:
    """Return the shape of each tensor of the model in ``folder``. Raises ``RefusedModel``."""
    return {name: s for path in weight_files(folder) for name, s in tensor_shapes(path).items()}


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        are_plain = all(PurePath(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RefusedModel(f"{INDEX} is damaged. Fetch it again.") from None
    if not names or not are_plain:
        raise RefusedModel(f"{INDEX} names no files, or files of another folder.")
    return names
