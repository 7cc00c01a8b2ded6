"""``/v1/completions``."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sintonia import ids
from sintonia.api.answering import Stream, wait_for_answers, wants_usage
from sintonia.api.bodies import Body, JsonBody, parse
from sintonia.api.headers import ignored_header
from sintonia.api.openapi import json_body
from sintonia.api.schemas.completions import Completion, CompletionParams
from sintonia.api.services import Services, ServicesDep
from sintonia.api.sse import Caller
from sintonia.api.translate.answers import new_call
from sintonia.api.translate.completions import (
    CompletionChunks,
    completion,
    completion_request,
)
from sintonia.api.translate.parameters import COMPLETION_REFUSED, check_extra
from sintonia.serving.completions import completion_pieces, plan_completion

router = APIRouter(prefix="/v1/completions")


@router.post(
    "",
    openapi_extra=json_body(CompletionParams),
    responses={200: {"model": Completion, "content": {"text/event-stream": {}}}},
)
async def create_completion(request: Request, body: JsonBody, services: ServicesDep) -> Response:
    """Continue raw prompts, whole or as a stream."""
    return await answer_completion(body, services, request)


async def answer_completion(body: Body, services: Services, caller: Caller) -> Response:
    """Answer a body that was read, whoever the caller is. Raises ``SintoniaError``."""
    params = parse(CompletionParams, body)
    headers = ignored_header(check_extra(params, COMPLETION_REFUSED))
    wanted = completion_request(params)
    served = await to_thread.run_sync(services.router.route, params.model)
    call, with_logprobs = new_call(ids.COMPLETION, served), params.logprobs is not None
    plan = await to_thread.run_sync(plan_completion, call.id, served, wanted)
    pieces = completion_pieces(services.engine, plan, wanted)
    if params.stream:
        stream = Stream(plan, pieces, CompletionChunks(call, with_logprobs), wants_usage(params))
        return await stream.respond(caller, headers)
    answers, usage = await wait_for_answers(caller, plan, pieces)
    whole = completion(call, answers, usage, with_logprobs=with_logprobs)
    return JSONResponse(whole.model_dump(mode="json"), headers=headers)
