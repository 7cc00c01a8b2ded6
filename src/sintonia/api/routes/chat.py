"""``/v1/chat/completions``."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sintonia import ids
from sintonia.api.answering import Stream, wait_for_answers, wants_usage
from sintonia.api.bodies import Body, JsonBody, parse
from sintonia.api.headers import ignored_header
from sintonia.api.openapi import json_body
from sintonia.api.schemas.chat import ChatCompletion, ChatCompletionRequest
from sintonia.api.services import Services, ServicesDep
from sintonia.api.sse import Caller
from sintonia.api.translate.answers import new_call
from sintonia.api.translate.chat import ChatChunks, ChatShape, chat_completion, chat_request
from sintonia.api.translate.parameters import CHAT_REFUSED, check_extra
from sintonia.serving.chat import chat_pieces, plan_chat

router = APIRouter(prefix="/v1/chat/completions")


@router.post(
    "",
    openapi_extra=json_body(ChatCompletionRequest),
    responses={200: {"model": ChatCompletion, "content": {"text/event-stream": {}}}},
)
async def create_chat_completion(
    request: Request, body: JsonBody, services: ServicesDep
) -> Response:
    """Answer a conversation, whole or as a stream."""
    return await answer_chat(body, services, request)


async def answer_chat(body: Body, services: Services, caller: Caller) -> Response:
    """Answer a body that was read, whoever the caller is. Raises ``SintoniaError``."""
    params = parse(ChatCompletionRequest, body)
    headers = ignored_header(check_extra(params, CHAT_REFUSED))
    chat = chat_request(params, body)
    served = await to_thread.run_sync(services.router.route, params.model)
    call, shape = new_call(ids.CHAT_COMPLETION, served), ChatShape.of(params)
    plan = await to_thread.run_sync(plan_chat, call.id, served, chat)
    pieces = chat_pieces(services.engine, plan, chat)
    if params.stream:
        stream = Stream(plan, pieces, ChatChunks(call, shape), wants_usage(params))
        return await stream.respond(caller, headers)
    answers, usage = await wait_for_answers(caller, plan, pieces)
    whole = chat_completion(call, answers, usage, shape)
    return JSONResponse(whole.model_dump(mode="json"), headers=headers)
