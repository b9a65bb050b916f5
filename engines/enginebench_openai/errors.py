"""Errors as OpenAI's API words them: `{"error": {"message", "type", "param", "code"}}`.

`ApiError` is raised anywhere below a route; the application renders it. `error_bytes` is the same
object for a stream that has begun already and can no longer change its status.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

__all__ = ["ApiError", "error_bytes", "error_response"]


class ApiError(Exception):
    """An answer other than 200. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    @property
    def type(self) -> str:
        """OpenAI's coarse kind of error."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"


def error_bytes(error: ApiError) -> bytes:
    """The JSON object of an error."""
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_response(error: ApiError) -> Response:
    """The whole answer to a request that failed before its answer began."""
    return Response(
        error_bytes(error),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )
