"""Whether the server lives, and whether it can answer."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter

from sintonia.api.services import ServicesDep

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "ok"}


@router.get("/health/ready")
async def ready(services: ServicesDep) -> dict[str, str | int]:
    """Tell that database and engine answer too; 503 says which does not."""
    await to_thread.run_sync(lambda: services.store.jobs.list(limit=1))
    engine = await services.engine.status()
    return {"status": "ready", "running": engine.running, "waiting": engine.waiting}
