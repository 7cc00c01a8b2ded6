"""What the tests of the API share beside fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fastapi.testclient import TestClient

from sintonia.api.services import Services
from sintonia.data.renderer import Renderer
from sintonia.domain.models import BaseRef, Model, ModelKind

TUNED = "ft:tiny:personal:tickets:0abcdEFG"


def register_tuned(services: Services, name: str, kind: ModelKind = ModelKind.TUNED) -> str:
    base = services.library.find("tiny")
    folder = services.settings.home / "models" / "tuned" / name.rpartition(":")[2]
    folder.mkdir(parents=True)
    for part in ("tokenizer.json", "chat_template.jinja", "sintonia.json"):
        shutil.copyfile(Path(base.ref.folder) / part, folder / part)
    card = {"template_sha256": Renderer.from_folder(folder).template_sha256}
    (folder / "model_card.json").write_text(json.dumps(card), encoding="utf-8")
    services.store.models.add(
        Model(
            name=name,
            kind=kind,
            created_at=1_700_000_000,
            owned_by="personal",
            base=BaseRef(base.ref.name, base.ref.folder, base.ref.sha256),
            folder=str(folder),
            adapter_sha256="a" * 64,
        )
    )
    return name


def rows(count: int = 12) -> bytes:
    """A valid chat file."""
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    return b"".join(json.dumps(row).encode() + b"\n" for _ in range(count))


def upload(client: TestClient, content: bytes | None = None, purpose: str = "fine-tune") -> dict:
    """Upload a file and return the file object."""
    files = {"file": ("train.jsonl", rows() if content is None else content)}
    answer = client.post("/v1/files", data={"purpose": purpose}, files=files)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status: int, code: str | None = None, param: str | None = None) -> str:
    """Check that an answer is OpenAI's envelope and return its message."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert answer.headers["x-request-id"].startswith("req_")
    return error["message"]
