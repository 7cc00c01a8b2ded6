"""From a model's name to its weights and its renderer.

Invariant: a tuned model answers only over the base it was trained on (by hash) and only with
the tokenizer and template it was trained with (by hash); anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sintonia.bases.folder import BaseModel
from sintonia.bases.library import Library
from sintonia.catalog import Catalog
from sintonia.data.renderer import Renderer
from sintonia.domain.models import Model
from sintonia.errors import (
    DeploymentNotFound,
    DownloadFailed,
    ModelNotFound,
    ModelNotReady,
    RefusedModel,
)
from sintonia.generation.base import ModelRef
from sintonia.sealed import read_json
from sintonia.store import Store

MODEL_CARD = "model_card.json"
_KEPT_RENDERERS = 32
_FETCH_SECONDS = 5
"""When to ask again for a model that is being fetched."""


@dataclass(frozen=True)
class ServedModel:
    """A model that can answer now."""

    name: str
    """The name to answer with: the snapshot of an alias, else the name asked for."""
    ref: ModelRef
    renderer: Renderer


class Router:
    """Finds what stands behind a name. Thread-safe; reads the disk, so call it in a thread."""

    def __init__(self, store: Store, library: Library, catalog: Catalog) -> None:
        self._store = store
        self._library = library
        self._catalog = catalog
        self._renderer = lru_cache(maxsize=_KEPT_RENDERERS)(_checked_renderer)

    def route(self, name: str) -> ServedModel:
        """Return the model that ``name`` means: a deployment's, else a tuned one's, else a base's.

        Raises ``ModelNotFound``; ``DeploymentNotFound`` for a deployment whose model is gone;
        ``ModelNotReady`` while a base is fetched (which this call
        begins); ``DownloadFailed`` when that failed; ``RefusedModel`` when a tuned model's
        base or template is not the one it was trained with.
        """
        deployment = self._store.deployments.find(name)
        if deployment is None:
            return self._route_model(name)
        model = deployment.draft.model
        try:
            return self._route_model(model)
        except ModelNotFound:
            raise DeploymentNotFound(name, model=model) from None

    def _route_model(self, name: str) -> ServedModel:
        tuned = self._tuned(name)
        if tuned is not None:
            return self._route_tuned(tuned)
        resolved = self._catalog.resolve(name)
        ref = self._base(resolved.base, asked_for=name).ref
        weights = ModelRef(base_folder=ref.folder, base_sha256=ref.sha256)
        return ServedModel(resolved.shown, weights, self._renderer(ref.folder, ref.sha256, None))

    def _tuned(self, name: str) -> Model | None:
        try:
            return self._store.models.get(name)
        except ModelNotFound:
            return None

    def _route_tuned(self, model: Model) -> ServedModel:
        assert model.folder is not None, f"{model.name} has no folder"
        base = self._base_of(model).ref
        if base.sha256 != model.base.sha256:
            raise RefusedModel(
                f"Model {model.name}: it was trained on another version of {base.name} than the "
                f"one on disk (sha256 {model.base.sha256[:12]}, here {base.sha256[:12]}). "
                "Tune it again, or put that version back.",
                param="model",
            )
        is_whole = model.adapter_sha256 is None
        adapter_folder = None if is_whole else model.folder
        weights = ModelRef(base.folder, base.sha256, adapter_folder, model.adapter_sha256)
        content = model.adapter_sha256 or base.sha256
        renderer = self._renderer(model.folder, content, model.name)
        return ServedModel(model.name, weights, renderer)

    def _base_of(self, model: Model) -> BaseModel:
        """Return the base of a tuned model; one that is gone is not "no such model"."""
        held = self._library.holding(model.base)
        if held is not None:
            return held
        if model.adapter_sha256 is None:
            raise RefusedModel(
                f"Model {model.name}: its weights are missing or damaged on disk. Tune it again.",
                param="model",
            )
        if not self._library.knows(model.base.name):
            raise RefusedModel(
                f"Model {model.name}: its base model {model.base.name} is not on this server any "
                f"more. Add the same folder again (`sintonia models add {model.base.name} FOLDER`)"
                ", or tune another base.",
                param="model",
            )
        return self._base(model.base.name, asked_for=model.name)

    def _base(self, name: str, *, asked_for: str) -> BaseModel:
        base = self._library.find(name)
        if base is not None:
            return base
        if not self._library.knows(name):
            raise ModelNotFound(asked_for)
        problem = self._library.fetch_problem(name)
        if problem is not None:
            self._library.forget_problem(name)
            raise DownloadFailed(
                f"Model {name} could not be fetched: {problem} The next request tries again.",
                param="model",
            )
        self._library.start_fetch(name)
        raise ModelNotReady(
            f"Model {name}: its weights are being fetched. Try again in a moment.",
            retry_after_seconds=_FETCH_SECONDS,
        )


def _checked_renderer(folder: str, _sha256: str, tuned: str | None) -> Renderer:
    """Read a renderer; of a ``tuned`` model check that it is the one of its training.

    ``_sha256`` is only part of the cache's key: another content is another renderer.
    """
    try:
        renderer = Renderer.from_folder(Path(folder))
    except (OSError, LookupError, TypeError, ValueError):
        raise RefusedModel(
            f"Model {tuned or Path(folder).name}: its tokenizer, template or facts are missing or "
            "damaged on disk. Tune or fetch it again.",
            param="model",
        ) from None
    if tuned is None:
        return renderer
    recorded = _recorded_template(Path(folder), tuned)
    if recorded != renderer.template_sha256:
        raise RefusedModel(
            f"Model {tuned}: its tokenizer or chat template is not the one it was trained with "
            f"(sha256 {str(recorded)[:12]}, here {renderer.template_sha256[:12]}). "
            "Put the model's own files back, or tune it again.",
            param="model",
        )
    return renderer


def _recorded_template(folder: Path, tuned: str) -> str | None:
    """Return the hash in a model's card. Raises ``RefusedModel`` for a card that is none."""
    path = folder / MODEL_CARD
    try:
        card = read_json(path) if path.exists() else {}
    except (OSError, ValueError, RecursionError):
        card = None
    if not isinstance(card, dict):
        raise RefusedModel(
            f"Model {tuned}: its {MODEL_CARD} is damaged on disk. "
            "Put the model's own file back, or tune it again.",
            param="model",
        )
    recorded = card.get("template_sha256")
    return recorded if isinstance(recorded, str) else None
