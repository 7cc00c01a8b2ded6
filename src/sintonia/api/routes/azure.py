"""What only Azure has and this server has not: refused by name."""

from __future__ import annotations

from fastapi import APIRouter

from sintonia.errors import UnsupportedParameter

router = APIRouter()


@router.post("/v1/files/import")
def import_file() -> None:
    """Refuse to fetch a file from a URL."""
    raise UnsupportedParameter(
        "Parameter content_url: files are not imported from URLs here, for the server fetches "
        "nothing that a request names. Download the file and upload it (POST /openai/files).",
        param="content_url",
    )


@router.api_route(
    "/v1/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/copy",
    methods=["POST", "GET"],
    include_in_schema=False,
)
def copy_checkpoint() -> None:
    """Refuse to copy a checkpoint to another account."""
    raise UnsupportedParameter(
        "Parameter destinationResourceId: checkpoints are not copied to other accounts, for one "
        "server is one account in one region. Deploy the checkpoint's id here.",
        param="destinationResourceId",
    )
