"""What a client is told when there is no answer, in the shape of OpenAI's errors."""

from typing import Any

KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refused(Exception):
    """No answer, and why. status: of HTTP; code: a word for programs; headers: of the response."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None,
                 headers: dict[str, str] | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def ending() -> Refused:
    """The server takes no more."""
    return Refused(503, "the server is shutting down, or its device has failed: try another one", "unavailable",
                   headers={"Retry-After": "10"})  # fmt: skip
