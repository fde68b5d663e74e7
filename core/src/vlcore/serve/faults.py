"""What goes wrong with a request: an HTTP status, and a body in OpenAI's form."""

from __future__ import annotations

from typing import Any

from vlcore.errors import DataError, MediaError, UsageError, VlcoreError

#: What OpenAI's clients know the kinds of errors by.
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error",
    415: "invalid_request_error", 429: "rate_limit_error",
}


class RequestError(VlcoreError):
    """A request that is answered with an error.

    Args:
        given: what was sent.
        why: why it cannot be answered.
        do: what to do instead.
        status: HTTP status.
        param: the field of the request, when it is one.
        code: a word for programs, such as `model_not_found`.
    """

    def __init__(
        self, given: str, why: str, do: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(given, why, do)
        self.status, self.param, self.code = status, param, code


def find_status(error: BaseException) -> int:
    """The HTTP status of an error: what a client can change is 400, the rest 500."""
    if isinstance(error, RequestError):
        return error.status
    return 400 if isinstance(error, UsageError | MediaError | DataError) else 500


def write_error(error: BaseException) -> dict[str, Any]:
    """The body of an error. What is inside the server stays there: an unexpected error has no details."""
    status = find_status(error)
    text = "the request: the server failed on it; its log says why" if status == 500 else " ".join(str(error).split())
    return {"error": {
        "message": text,
        "type": KINDS.get(status, "server_error"),
        "param": getattr(error, "param", None),
        "code": getattr(error, "code", None),
    }}
