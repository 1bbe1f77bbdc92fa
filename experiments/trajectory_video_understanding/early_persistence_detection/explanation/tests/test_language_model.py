"""The client: what it sends and to whom, what it bounds, what it never tells."""

import json
import time

import pytest
from early_persistence_detection.explanation import language_model
from early_persistence_detection.explanation.language_model import (
    KEY_VARIABLE,
    MOST_BYTES,
    MOST_FAILURES,
    LanguageModel,
    LanguageModelError,
)
from early_persistence_detection.explanation.tests.chat_server import chat_server
from run_directory import InputError

KEY = "sk-never-to-be-seen-0123456789"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(language_model, "WAIT_SECONDS", 0.01)


def test_one_question_is_one_post_with_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    schema = {"type": "object"}
    with chat_server(lambda handler, body: handler.say("Good day")) as server:
        model = LanguageModel.from_environment(server.url + "/", "small", max_tokens=7)
        assert model.answer(HELLO, schema) == "Good day"
    ((path, headers, raw),) = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    body = json.loads(raw)
    assert body["messages"] == HELLO and body["model"] == "small" and body["max_tokens"] == 7
    assert body["temperature"] == 0 and body["response_format"]["json_schema"]["schema"] == schema
    assert KEY not in repr(vars(model)["cache"]) and KEY not in repr(model)


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with chat_server(lambda handler, body: handler.say("")) as server:
        assert LanguageModel.from_environment(server.url).answer(HELLO) == ""
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status):
    def respond(handler, body):
        if len(server.requests) < 3:
            handler.send(status, Retry_After="0")
        else:
            handler.say("at last")

    with chat_server(respond) as server:
        assert LanguageModel(server.url).answer(HELLO) == "at last"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refused the key"), (403, KEY_VARIABLE), (404, "HTTP 404"), (302, "elsewhere"), (307, "elsewhere")],
)
def test_what_another_attempt_does_not_mend_is_said_at_once_without_the_key(status, words):
    with chat_server(lambda handler, body: handler.say("stolen")) as elsewhere:

        def respond(handler, body):
            echo = f"the key {KEY} is wrong".encode()
            handler.send(status, echo, Location=elsewhere.url + "/chat/completions", Reason=KEY)

        with chat_server(respond) as server, pytest.raises(LanguageModelError, match=words) as raised:
            LanguageModel(server.url, key=KEY).answer(HELLO)
    assert len(server.requests) == 1 and not elsewhere.requests
    assert KEY not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"\xff" * 9,
        b"[" * 100_000,
    ],
)
def test_an_answer_of_another_kind_is_an_error(body):
    with (
        chat_server(lambda handler, asked: handler.send(200, body)) as server,
        pytest.raises(LanguageModelError, match="OpenAI-compatible"),
    ):
        LanguageModel(server.url).answer(HELLO)


def test_an_endless_answer_is_cut():
    def respond(handler, body):
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent.append(handler.wfile.write(b"x" * 65536))

    sent: list[int] = []

    with chat_server(respond) as server, pytest.raises(LanguageModelError, match=f"longer than {MOST_BYTES} bytes"):
        LanguageModel(server.url).answer(HELLO)
    assert len(server.requests) == 1 and sum(sent) < 16 * MOST_BYTES  # more may lie in the sockets


@pytest.mark.parametrize("first", [b"", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_slow_server_does_not_outlast_the_time_that_is_given(first):
    def respond(handler, body):
        handler.wfile.write(first)
        for _ in range(100):
            if first:
                handler.wfile.write(b" ")
            time.sleep(0.05)

    with chat_server(respond) as server:
        begun = time.monotonic()
        with pytest.raises(LanguageModelError, match="in time"):
            LanguageModel(server.url, timeout_s=0.4).answer(HELLO)
        assert time.monotonic() - begun < 1.5


def test_a_server_that_is_not_there_is_given_up():
    with chat_server(lambda handler, body: None) as server:
        url = server.url
    model = LanguageModel(url)
    for _ in range(MOST_FAILURES):
        with pytest.raises(LanguageModelError, match="ConnectionRefusedError"):
            model.answer(HELLO)
    with pytest.raises(LanguageModelError, match="no more are asked"):
        model.answer(HELLO)


def test_answers_are_kept_by_what_was_asked(tmp_path):
    with chat_server(lambda handler, body: handler.say(f"answer {len(server.requests)}")) as server:
        model = LanguageModel(server.url, key=KEY, cache=tmp_path)
        assert model.answer(HELLO) == model.answer(HELLO) == "answer 1"
        assert LanguageModel(server.url, cache=tmp_path).answer(HELLO) == "answer 1"
        assert LanguageModel(server.url, "other", cache=tmp_path).answer(HELLO) == "answer 2"
        assert model.answer(HELLO, {"type": "object"}) == "answer 3"
        kept = sorted(tmp_path.iterdir())
        assert len(kept) == 3 and not any(KEY in path.read_text() + path.name for path in kept)
        for path in kept:
            path.write_text("{")
        assert model.answer(HELLO) == "answer 4"


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("127.0.0.1:8080", None, "http"),
        ("ftp://host/v1", None, "http"),
        ("http://", None, "http"),
        ("http://host:port/v1", None, "http"),
        ("http://user:secret@host/v1", None, "http"),
        ("http://example.org/v1", KEY, "unencrypted"),
        ("https://example.org/v1", f"{KEY}\r\nX: y", KEY_VARIABLE),
        ("https://example.org/v1", f"{KEY} ", KEY_VARIABLE),
        ("https://example.org/v1", "ключ", KEY_VARIABLE),
    ],
)
def test_an_address_or_key_that_cannot_be_used_is_refused(url, key, words):
    with pytest.raises(InputError, match=words) as raised:
        LanguageModel(url, key=key)
    assert KEY not in str(raised.value) and "secret" not in str(raised.value) and "\n" not in str(raised.value)
