"""HTTP as it comes over the connection: what is no HTTP gets the envelope too.

Such a request never reaches the application: no header of it can be trusted, and the connection
ends with the answer.
"""

from __future__ import annotations

import secrets

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sintonia import ids
from sintonia.api.errors import error_response
from sintonia.errors import InvalidRequest


class EnvelopeProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which answers what it cannot read with OpenAI's envelope."""

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, or end one whose answer has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        error = InvalidRequest(
            f"{msg.rstrip('.')}: one Host header, a body of the length that is announced and "
            "headers of at most 64 KB are needed. Use an HTTP client.",
            code="invalid_http",
        )
        answer = error_response(error)
        request_id = ids.REQUEST + secrets.token_hex(16)
        headers = [*answer.raw_headers, (b"x-request-id", request_id.encode())]
        headers.append((b"connection", b"close"))
        events = (
            h11.Response(status_code=answer.status_code, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
