"""``files``: what was uploaded to a server, and the results that jobs stored there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sintonia import settings as settings_module
from sintonia.cli.background import connect
from sintonia.cli.client import Client
from sintonia.cli.options import ServerOption
from sintonia.cli.output import console, facts, moment, size, table
from sintonia.errors import InvalidValue

app = typer.Typer(help="Upload, list, download and delete files.", no_args_is_help=True)

FileIdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="File, as `sintonia files list` shows it.")
]


@app.command("list")
def list_files(server: ServerOption = None) -> None:
    """List all files."""
    with connect(settings_module.load(), server) as client:
        found = list(client.files())
    if not found:
        console().print("No files yet. Upload one with `sintonia files upload FILE`.")
        return
    rows = (
        (f["id"], size(f["bytes"]), moment(f["created_at"]), f["filename"], f["purpose"])
        for f in found
    )
    console().print(table(("File", "Size", "Created", "Name", "Purpose"), rows))


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option(help="What the file is for.")] = "fine-tune",
    server: ServerOption = None,
) -> None:
    """Upload a file and print its id; fail when the server cannot use what is in it."""
    with connect(settings_module.load(), server) as client:
        stored = client.upload(file, purpose)
    console().print(stored["id"])
    if stored["status"] == "error":
        why = stored.get("status_details") or "the server gave no reason."
        raise InvalidValue(f"File {file.name} cannot be used: {why}")


@app.command()
def show(file_id: FileIdArgument, server: ServerOption = None) -> None:
    """Show everything about one file."""
    with connect(settings_module.load(), server) as client:
        stored = client.file(file_id)
    console().print(
        facts(
            [
                ("file", stored["id"]),
                ("name", stored["filename"]),
                ("purpose", stored["purpose"]),
                ("size", size(stored["bytes"])),
                ("created", moment(stored["created_at"])),
                ("expires", moment(stored.get("expires_at"))),
                ("status", stored["status"]),
                ("details", stored.get("status_details")),
            ]
        )
    )


@app.command()
def download(
    file_id: FileIdArgument,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[TARGET]", help="Where to; without it the file's own name here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    server: ServerOption = None,
) -> None:
    """Download a file, such as the metrics of a job."""
    with connect(settings_module.load(), server) as client:
        written = save(client, file_id, target, force=force)
    console().print(f"Written to {written}.")


@app.command()
def delete(file_id: FileIdArgument, server: ServerOption = None) -> None:
    """Delete a file."""
    with connect(settings_module.load(), server) as client:
        client.delete_file(file_id)
    console().print(f"File {file_id} is deleted.")


def save(client: Client, file_id: str, target: Path | None, *, force: bool) -> Path:
    """Write a file's content; never over one that is there unless ``force`` says so."""
    # A name that somebody else gave must not choose a folder here.
    path = target or Path(Path(client.file(file_id)["filename"]).name)
    if path.exists() and not force:
        raise InvalidValue(f"File {path}: exists. Name another target, or replace it with --force.")
    if not path.parent.is_dir():
        raise InvalidValue(f"Folder {path.parent}: does not exist. Make it, or name another.")
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as output:
            for block in client.download(file_id):
                output.write(block)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
