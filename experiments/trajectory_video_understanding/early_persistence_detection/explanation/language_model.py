"""A language model behind an OpenAI-compatible API, by plain HTTP.

One POST to URL/chat/completions, nothing else: no redirect is followed and no proxy is asked, so that the key goes to
the address that was given and to no other. The key is taken from the environment, and is in no error, log or file.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from run_directory import InputError, write_json

KEY_VARIABLE = "EARLY_PERSISTENCE_LLM_KEY"
MOST_BYTES = 1 << 20  # of an answer
ATTEMPTS = 3
WAIT_SECONDS = 0.5  # before the second attempt, twice as long before each further one
MOST_FAILURES = 3  # questions in a row that fail before no more are asked
AGAIN = (408, 425, 429, 500, 502, 503, 504)
ON_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class LanguageModelError(RuntimeError):
    """No answer that can be used. One line that says why, without the key and without what the server said."""


class LanguageModel:
    """Asks one model at one address; answers are kept in a folder by what was asked.

    `url` is what /chat/completions is appended to, e.g. http://127.0.0.1:8080/v1. `timeout_s` bounds one question with
    all its attempts, `max_tokens` its answer. Raises InputError for an address or key that cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str = "default",
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        max_tokens: int = 600,
        cache: Path | None = None,
    ):
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == -1:
            raise InputError(
                "the language model's address is no http(s)://host[:port]/path; give e.g. http://127.0.0.1:8080/v1"
            )
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key and key):
            raise InputError(f"{KEY_VARIABLE} holds something that is no key; set it anew, or unset it")
        if key is not None and parts.scheme == "http" and parts.hostname not in ON_THIS_MACHINE:
            raise InputError(f"{KEY_VARIABLE} would be sent unencrypted to {parts.hostname}; give an https:// address")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, port
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._key = key
        self.model, self.timeout_s, self.max_tokens, self.cache = model, timeout_s, max_tokens, cache
        self._num_failures = 0

    @classmethod
    def from_environment(cls, url: str, model: str = "default", **settings: Any) -> LanguageModel:
        """With the key of KEY_VARIABLE, if it is set. `settings` are those of the class."""
        return cls(url, model, key=os.environ.get(KEY_VARIABLE) or None, **settings)

    def answer(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None = None) -> str:
        """The model's answer to a conversation; where `schema` is given, the server is asked for JSON of that JSON
        schema (what comes must still be checked). Raises LanguageModelError where there is none in time, and at once
        after MOST_FAILURES questions in a row without an answer.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "seed": 0,
        }
        if schema is not None:
            named = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        kept = self._kept_at(body)
        if kept is not None and (known := _kept(kept)) is not None:
            return known
        if self._num_failures >= MOST_FAILURES:
            raise LanguageModelError(f"{MOST_FAILURES} questions in a row had no answer; no more are asked")
        try:
            said = self._asked(json.dumps(body).encode())
        except LanguageModelError:
            self._num_failures += 1
            raise
        self._num_failures = 0
        if kept is not None:
            write_json(kept, {"content": said})
        return said

    def _kept_at(self, body: Mapping[str, Any]) -> Path | None:
        if self.cache is None:
            return None
        asked = json.dumps([self._scheme, self._host, self._port, self._path, body], sort_keys=True)
        return self.cache / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def _asked(self, body: bytes) -> str:
        deadline = time.monotonic() + self.timeout_s
        for attempt in range(ATTEMPTS):
            try:
                status, raw, wait = self._post(body, deadline)
            except (OSError, http.client.HTTPException) as error:
                status, raw, wait = 0, b"", None
                why = "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            else:
                if status == 200:
                    return _content(raw)
                why = _refusal(status)
                if status not in AGAIN:
                    break
            pause = WAIT_SECONDS * 2**attempt if wait is None else wait
            if attempt == ATTEMPTS - 1 or pause >= deadline - time.monotonic():
                break
            time.sleep(pause)
        raise LanguageModelError(f"no answer from the language model at {self._host}: {why}")

    def _post(self, body: bytes, deadline: float) -> tuple[int, bytes, float | None]:
        """Status, body, and how many seconds the server asks to wait."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=left, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=left)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        with contextlib.closing(connection):
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            wait = response.getheader("Retry-After", "")
            raw = bytearray()
            # a server that sends a byte now and then keeps within the timeout of each
            while chunk := response.read1(1 << 16):
                raw += chunk
                if len(raw) > MOST_BYTES:
                    raise LanguageModelError(f"the language model's answer is longer than {MOST_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return response.status, bytes(raw), float(wait) if wait.isdigit() else None


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"it refused the key (HTTP {status}); set {KEY_VARIABLE}"
    if 300 <= status < 400:
        return f"it sends elsewhere (HTTP {status}), where the key is not taken; give the address itself"
    return f"HTTP {status}"


def _content(raw: bytes) -> str:
    """The text of an answer. Raises LanguageModelError where it has none."""
    try:
        said = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        said = None
    if not isinstance(said, str):
        raise LanguageModelError("the language model's answer is not of the OpenAI-compatible API")
    return said


def _kept(path: Path) -> str | None:
    """An earlier answer; None where there is none that can be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return said if isinstance(said, str) else None
