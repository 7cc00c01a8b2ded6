"""``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sintonia import ids
from sintonia.api.answering import Stream, wait_for_answers, wants_usage
from sintonia.api.bodies import Body, JsonBody, parse
from sintonia.api.headers import ignored_header, request_id_of
from sintonia.api.keeping import Headers, then_keep
from sintonia.api.openapi import json_body
from sintonia.api.schemas.chat import ChatCompletion, ChatCompletionRequest
from sintonia.api.services import Services, ServicesDep
from sintonia.api.sse import Caller
from sintonia.api.translate.answers import new_call, usage_of
from sintonia.api.translate.chat import (
    ChatChunks,
    ChatShape,
    chat_completion,
    chat_request,
    idle_parameters,
)
from sintonia.api.translate.parameters import CHAT_REFUSED, check_extra
from sintonia.api.translate.stored_completions import stored_completion
from sintonia.serving.answers import Answer
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
    """Answer a conversation, whole or as a stream; with ``store`` it is kept."""
    return await answer_chat(body, services, request)


async def answer_chat(body: Body, services: Services, caller: Caller) -> Response:
    """Answer a body that was read, whoever the caller is. Raises ``SintoniaError``."""
    params = parse(ChatCompletionRequest, body)
    ignored = (*check_extra(params, CHAT_REFUSED), *idle_parameters(params))
    headers, chat = ignored_header(ignored), chat_request(params, body)
    served = await to_thread.run_sync(services.router.route, params.model)
    call, shape = new_call(ids.CHAT_COMPLETION, served), ChatShape.of(params)
    plan = await to_thread.run_sync(plan_chat, call.id, served, chat)
    pieces = chat_pieces(services.engine, plan, chat)
    keep = _keeping(params, body, services, caller) if params.store else None

    def whole_of(answers: Sequence[Answer]) -> ChatCompletion:
        return chat_completion(call, answers, usage_of(plan, answers), shape)

    if params.stream:
        if keep is not None:
            pieces = then_keep(pieces, lambda answers: keep(whole_of(answers)))
        stream = Stream(plan, pieces, ChatChunks(call, shape), wants_usage(params))
        return await stream.respond(caller, headers)
    answers, _ = await wait_for_answers(caller, plan, pieces)
    whole = whole_of(answers)
    if keep is not None:
        headers |= await keep(whole)
    return JSONResponse(whole.model_dump(mode="json"), headers=headers)


def _keeping(
    params: ChatCompletionRequest, body: Body, services: Services, caller: Caller
) -> Callable[[ChatCompletion], Awaitable[Headers]]:
    """Return what keeps the answer to a request."""
    days, request_id = services.settings.stored_completion_days, request_id_of(caller)

    async def keep(whole: ChatCompletion) -> Headers:
        kept = stored_completion(params, body, whole, days=days, request_id=request_id)
        return await services.keeper.keep(services.store, kept)

    return keep
