"""What goes wrong, as RFC 9457 has it: application/problem+json, in one line of detail."""

from __future__ import annotations

import dataclasses
import http
from typing import Any

MEDIA_TYPE = "application/problem+json"


@dataclasses.dataclass
class Problem(Exception):
    """A request that cannot be done: the HTTP status, what is wrong and how to mend it, in one line."""

    status: int
    detail: str
    retry_after_seconds: float | None = None  # for 429 and 503

    def __str__(self) -> str:
        return self.detail

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        detail = " ".join(self.detail.split())[:500]
        return {
            "type": "about:blank",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": detail,
        }

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to the status."""
        headers = {}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after_seconds)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers
