"""Who may do what: tokens with scopes, compared in constant time, and how often.

A tokens file has a line a token, `name:scope[,scope]:SHA-256 of the token in hex`; scopes are `read` and `write`, and
`write` includes `read`. Tokens themselves are nowhere kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import time
from pathlib import Path

from run_directory import InputError

from early_persistence_detection.inference.service.problems import Problem

SCOPES = ("read", "write")
LINE = re.compile(r"(?P<name>[\w.-]{1,64}):(?P<scopes>\w+(?:,\w+)*):(?P<digest>[0-9a-f]{64})")


@dataclasses.dataclass(frozen=True)
class Client:
    """Who asks."""

    name: str
    scopes: frozenset[str]


ANYBODY = Client("anybody", frozenset(SCOPES))  # where no tokens are asked for


class Tokens:
    """The tokens of a file; without one everybody may do everything."""

    def __init__(self, clients: dict[bytes, Client] | None):
        self._clients = clients  # by digest; None: no tokens are asked for

    @classmethod
    def of_file(cls, path: Path | None) -> Tokens:
        """Raises InputError, naming the line, for a file that cannot be read or holds none."""
        if path is None:
            return cls(None)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error}); give the file of tokens") from None
        clients = {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = LINE.fullmatch(text)
            scopes = frozenset(found["scopes"].split(",")) if found else frozenset()
            if found is None or not scopes <= set(SCOPES):
                raise InputError(f"{path}: line {number} is not name:scope[,scope]:sha256, with scopes read and write")
            clients[bytes.fromhex(found["digest"])] = Client(
                found["name"], scopes | ({"read"} if "write" in scopes else set())
            )
        if not clients:
            raise InputError(f"{path} holds no token; serve.py --new_token NAME prints one and its line")
        return cls(clients)

    def client(self, token: str | None, scope: str) -> Client:
        """Whose token it is. Raises Problem 401 without a known one, 403 where it has not the scope."""
        if self._clients is None:
            return ANYBODY
        if not token:
            raise Problem(401, "a token is needed; give it as Authorization: Bearer TOKEN")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = None
        for each, client in self._clients.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(each, digest):
                known = client
        if known is None:
            raise Problem(401, "the token is not known; see the tokens file of the service")
        if scope not in known.scopes:
            raise Problem(403, f"the token of {known.name} has not the scope {scope}")
        return known


class RateLimit:
    """A token bucket a client. Not for several threads."""

    def __init__(self, per_second: float):
        self._per_second = per_second
        self._left: dict[str, tuple[float, float]] = {}  # requests, at what time

    def take(self, client: Client) -> None:
        """Count one request. Raises Problem 429 where there were too many."""
        now = time.monotonic()
        left, then = self._left.get(client.name, (self._per_second, now))
        left = min(self._per_second, left + (now - then) * self._per_second)
        if left < 1:
            self._left[client.name] = left, now
            wait = (1 - left) / self._per_second
            raise Problem(429, f"more than {self._per_second:g} requests a second; slow down", wait)
        self._left[client.name] = left - 1, now
