"""``models``: base models of the home and tuned models of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sintonia import settings as settings_module
from sintonia.bases.library import Library
from sintonia.cli.background import connect
from sintonia.cli.client import Json
from sintonia.cli.homes import ServerFolder
from sintonia.cli.library import fetch_with_bar, open_library
from sintonia.cli.options import ServerOption
from sintonia.cli.output import console, moment, table
from sintonia.data.renderer import Renderer
from sintonia.domain.models import ModelKind
from sintonia.errors import InvalidValue, ModelNotFound
from sintonia.settings import Settings

if TYPE_CHECKING:
    from sintonia.store import Store

app = typer.Typer(help="List, fetch, add and delete models.", no_args_is_help=True)

SYSTEM = "system"
"""Owner of the models that nobody here made."""

PAGE_ITEMS = 500

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Model.")]


@app.command("list")
def list_models(server: ServerOption = None) -> None:
    """List base models, here or to be fetched, aliases and tuned models."""
    settings = settings_module.load()
    with connect(settings, server) as client:
        served = client.models()
    screen = console()
    if server is not None:
        screen.print(served_table(served))
        return
    library = open_library(settings)
    screen.print(bases_table(library))
    screen.print(aliases_table(library))
    own = [model for model in served if model["owned_by"] != SYSTEM]
    screen.print(served_table(own) if own else "No tuned models yet.")


@app.command()
def pull(name: NameArgument) -> None:
    """Fetch a base model of the catalog, unless it is there; again when its files are damaged."""
    library = open_library(settings_module.load())
    wanted = library.catalog.resolve(name).base
    if library.discard_damaged(wanted):
        console().print(f"{wanted} was damaged on disk. It is fetched again.")
    base = fetch_with_bar(library, wanted, console())
    console().print(
        f"{base.ref.name} is ready ({base.facts.license}, {base.facts.context_tokens:,} tokens)."
    )


@app.command()
def add(
    name: NameArgument,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Hugging Face folder."),
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME", help="Base model of a PEFT adapter in FOLDER."),
    ] = None,
) -> None:
    """Copy a model in: a folder with safetensors, or a PEFT adapter with --base."""
    settings = settings_module.load()
    library = open_library(settings)
    refuse_taken_name(settings, name)
    if base is None:
        added = library.add(name, folder)
        console().print(f"{added.ref.name} is added ({added.facts.context_tokens:,} tokens).")
        return
    add_adapter(settings, name, folder, library.catalog.resolve(base).base)
    console().print(f"{name} is added. Talk to it with `sintonia chat {name}`.")


def refuse_taken_name(settings: Settings, name: str) -> None:
    """Raise ``InvalidValue`` for the name of a tuned or added model."""
    # Not at start-up: the database's packages would slow every other command.
    from sintonia.store import Store

    ServerFolder(settings.home).make()
    with closing(Store.open(settings)) as store, suppress(ModelNotFound):
        store.models.get(name)
        raise InvalidValue(f"Model name {name!r} is taken. Choose another.", param="name")


def add_adapter(settings: Settings, name: str, folder: Path, base: str) -> None:
    """Copy a PEFT adapter in and register it; its base is fetched when it is not here.

    Raises ``RefusedModel``, ``InvalidValue`` and what ``Library.fetch`` raises.
    """
    # Not at start-up: the database's packages would slow every other command.
    from sintonia.store import Store

    library = open_library(settings)
    on_disk = fetch_with_bar(library, base, console())
    template = Renderer.from_folder(Path(on_disk.ref.folder)).template_sha256
    with closing(Store.open(settings)) as store:
        store.models.add(library.add_adapter(name, folder, on_disk.ref.name, template))


@app.command()
def delete(name: NameArgument, server: ServerOption = None) -> None:
    """Delete a tuned or added model, or a base of this home that nothing needs."""
    settings = settings_module.load()
    library = open_library(settings)
    if server is None and settings.home.exists():
        refuse_needed(settings, name)
    if server is None and library.holds(name):
        library.remove(name)
    else:
        with connect(settings, server) as client:
            client.delete_model(name)
        if server is None:
            library.remove_adapter(name)
    console().print(f"Model {name} is deleted.")


def refuse_needed(settings: Settings, name: str) -> None:
    """Raise ``InvalidValue`` when a tuned model or a job that is not over needs ``name``."""
    # Not at start-up: the database's packages would slow every other command.
    from sintonia.store import Store

    ServerFolder(settings.home).make()
    with closing(Store.open(settings)) as store:
        needing = [*_models_over(store, name), *_jobs_from(store, name)]
    if needing:
        more = f" and {len(needing) - 3} more" if len(needing) > 3 else ""
        raise InvalidValue(
            f"Model {name}: {', '.join(needing[:3])}{more} still needs it. "
            "Delete those models and cancel those jobs first, or wait for them.",
            param="name",
        )


def _models_over(store: Store, base: str) -> Iterator[str]:
    kinds = (ModelKind.TUNED, ModelKind.CHECKPOINT)
    return (model.name for model in store.models.list(kinds=kinds) if model.base.name == base)


def _jobs_from(store: Store, name: str) -> Iterator[str]:
    after, has_more = None, True
    while has_more:
        page = store.jobs.list(after=after, limit=PAGE_ITEMS)
        for job in page.items:
            after = job.id
            if not job.status.is_terminal and name in {
                job.draft.base_model,
                job.draft.parent_model,
            }:
                yield job.id
        has_more = page.has_more


def bases_table(library: Library) -> Table:
    """Return base models, installed ones first."""
    installed = {base.ref.name: base for base in library.installed()}
    rows: list[tuple[object, ...]] = [
        (name, "here", base.facts.license, f"{base.facts.context_tokens:,}")
        for name, base in installed.items()
    ]
    rows += [
        (name, "`sintonia models pull`", entry.license, f"{entry.context_tokens:,}")
        for name, entry in library.catalog.entries.items()
        if name not in installed
    ]
    return table(("Base model", "State", "Licence", "Context"), rows)


def served_table(models: list[Json]) -> Table:
    """Return models as a server lists them."""
    rows = ((model["id"], moment(model["created"])) for model in models)
    return table(("Model", "Created"), rows)


def aliases_table(library: Library) -> Table:
    """Return the names that stand for others."""
    rows = ((alias.pattern, alias.target) for alias in library.catalog.aliases)
    return table(("Alias", "Stands for"), rows)
