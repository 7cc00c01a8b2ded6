"""An account at OpenAI, as its API shows it over HTTP, with the faults that networks have."""

from __future__ import annotations

import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]
REFUSED = {"assistants", "vision", "user_data"}
"""Purposes whose content OpenAI gives nobody."""


@dataclass
class Account:
    """What the account holds. Everything is listed newest first."""

    files: dict[str, Json] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    events: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    checkpoints: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For a path, what happens to the next requests of it."""
    requests: list[str] = field(default_factory=list)
    headers: Json = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0
    deletes_when_read: str = ""
    """A file that somebody deletes after it was listed."""
    limit_files: int = 10000
    limit_events: int = 3
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_file(self, file_id: str, content: bytes, purpose: str = "fine-tune", **facts) -> str:
        self.files[file_id] = {
            "object": "file",
            "id": file_id,
            "purpose": purpose,
            "filename": f"{file_id}.jsonl",
            "bytes": len(content),
            "created_at": 1_700_000_000 + len(self.files),
            "expires_at": None,
            "status": "processed",
            "status_details": None,
            **facts,
        }
        self.contents[file_id] = content
        return file_id

    def add_job(self, job_id: str, training_file: str, **facts) -> str:
        hyperparameters = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
        self.jobs[job_id] = {
            "object": "fine_tuning.job",
            "id": job_id,
            "model": "gpt-4o-mini-2024-07-18",
            "created_at": 1_700_000_000 + len(self.jobs),
            "finished_at": 1_700_009_999,
            "fine_tuned_model": f"ft:gpt-4o-mini-2024-07-18:acme:mine:{len(self.jobs):08d}",
            "organization_id": "org-acme",
            "result_files": [],
            "status": "succeeded",
            "validation_file": None,
            "training_file": training_file,
            "hyperparameters": hyperparameters,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": hyperparameters},
            },
            "trained_tokens": 4480,
            "error": {},
            "user_provided_suffix": "mine",
            "seed": 42,
            "estimated_finish": None,
            "integrations": [],
            "metadata": None,
            "usage_metrics": None,
            "shared_with_openai": False,
            **facts,
        }
        self.events[job_id] = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job_id}-{step}",
                "created_at": 1_700_000_100 + step // 3,
                "level": "info",
                "message": f"Step {step}/7: training loss=0.5",
                "data": {"step": step, "train_loss": 0.5},
                "type": "metrics",
            }
            for step in range(7)
        ]
        self.checkpoints[job_id] = [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{job_id}{step}",
                "created_at": 1_700_000_100,
                "fine_tuned_model_checkpoint": f"ft:x:acme:mine:abcdefgh:ckpt-step-{step}",
                "fine_tuning_job_id": job_id,
                "metrics": {"step": step, "train_loss": 0.25},
                "step_number": step,
            }
            for step in (3, 6)
        ]
        return job_id

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Json | bytes]:
        parts = path.removeprefix("/v1/").split("/")
        if self.deletes_when_read in parts:
            self.files.pop(self.deletes_when_read, None)
        match parts:
            case ["files"]:
                return 200, self._page(list(self.files.values()), query, self.limit_files)
            case ["files", file_id] if file_id in self.files:
                return 200, self.files[file_id]
            case ["files", file_id, "content"] if file_id in self.files:
                purpose = self.files[file_id]["purpose"]
                if purpose in REFUSED:
                    return 400, _error(f"Not allowed to download files of purpose: {purpose}")
                return 200, self.contents[file_id]
            case ["fine_tuning", "jobs"]:
                return 200, self._page(list(self.jobs.values()), query, 100)
            case ["fine_tuning", "jobs", job_id, "events"] if job_id in self.jobs:
                return 200, self._page(self.events[job_id], query, self.limit_events)
            case ["fine_tuning", "jobs", job_id, "checkpoints"] if job_id in self.jobs:
                return 200, self._page(self.checkpoints[job_id], query, 100)
        return 404, _error(f"No such object: {path}")

    def _page(self, items: list[Json], query: dict[str, str], most: int) -> Json:
        items = items[::-1]
        begin = 0
        if "after" in query:
            begin = 1 + next(i for i, item in enumerate(items) if item["id"] == query["after"])
        end = begin + min(most, int(query.get("limit", 20)))
        return {"object": "list", "data": items[begin:end], "has_more": end < len(items)}


def _error(message: str, code: str | None = None) -> Json:
    return {"error": {"message": message, "type": "x", "param": None, "code": code}}


@contextmanager
def served(account: Account) -> Iterator[str]:  # noqa: C901 - one small server
    """Serve an account; give its base URL."""

    class Wire(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            with account.lock:
                account.requests.append(parts.path)
                account.headers = dict(self.headers)
                account.at_once += 1
                account.most_at_once = max(account.most_at_once, account.at_once)
                faults = account.faults[parts.path]
                fault = faults.pop(0) if faults else None
            try:
                self._answer(parts.path, dict(parse_qsl(parts.query)), fault)
            finally:
                with account.lock:
                    account.at_once -= 1

        def _answer(self, path: str, query: dict[str, str], fault: str | None) -> None:
            status, body = account.answer(path, query)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {}
            if fault == "cut":  # in the middle of the body
                self._send(200, len(content), content[: len(content) // 2], {})
                self.close_connection = True
                return
            if fault == "gone":
                self.close_connection = True
                return
            if fault == "short":
                content = content[: len(content) // 2]
            if fault in ("429", "500", "401", "quota"):
                status = 429 if fault == "quota" else int(fault)
                code = "insufficient_quota" if fault == "quota" else None
                content = json.dumps(_error(f"This is {fault}.", code)).encode()
                headers = {"Retry-After": "0.2"}
            self._send(status, len(content), content, headers)

        def _send(self, status: int, length: int, content: bytes, headers: dict) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that goes away is what is tested."""

    with Server(("127.0.0.1", 0), Wire) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
