"""What a schema registry answers, in our words: that it has no such thing, or that nothing of the kind is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from esper.connections import RegistrySettings, registry_settings
from esper.errors import LogError, UsageError
from esper.events.encoding.schemas import schema_of
from esper.events.runs import RunPaused
from esper.log.kafka.subjects import Subjects

SCHEMA = schema_of(RunPaused)
QUESTIONS: dict[str, tuple[Callable[[Subjects], object], object]] = {
    "looked_up": (lambda subjects: subjects.looked_up("s", SCHEMA), None),
    "level": (lambda subjects: subjects.level("s"), ""),
    "versions": (lambda subjects: subjects.versions("s"), []),
    "text": (lambda subjects: subjects.text(7), None),
}
"""Each question with what it gives where the registry has no such thing."""


@pytest.fixture
def registry() -> Iterator[Callable[[int, str], Subjects]]:
    """``registry(status, body)`` answers every question with them."""
    servers: list[HTTPServer] = []

    def start(status: int, body: str) -> Subjects:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return Subjects(RegistrySettings(ESPER_REGISTRY=f"http://127.0.0.1:{servers[-1].server_port}/path"))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("question", "code"),
    [*((each, 40401) for each in QUESTIONS), ("versions", 40402), ("text", 40403), ("level", 40408)],
)
def test_what_the_registry_itself_does_not_have_is_no_error(
    registry: Callable[[int, str], Subjects], question: str, code: int
) -> None:
    ask, nothing = QUESTIONS[question]
    with closing(registry(404, json.dumps({"error_code": code, "message": "not found"}))) as subjects:
        assert ask(subjects) == nothing


CONFLUENT = '{"error_code": 404, "message": "HTTP 404 Not Found"}'


@pytest.mark.parametrize(
    ("question", "body"),
    [
        *((each, CONFLUENT) for each in (*QUESTIONS, "count", "protect", "registered")),
        *(("versions", each) for each in ("", "<html>Not Found</html>", '{"detail": "none", "status": 404}', "[]")),
    ],
)
def test_a_web_server_that_knows_no_such_page_is_no_empty_registry(
    registry: Callable[[int, str], Subjects], question: str, body: str
) -> None:
    more: dict[str, Callable[[Subjects], object]] = {
        "count": lambda subjects: subjects.count(),
        "protect": lambda subjects: subjects.protect("s"),
        "registered": lambda subjects: subjects.registered("s", SCHEMA),
    }
    ask = more.get(question) or QUESTIONS[question][0]
    with closing(registry(404, body)) as subjects, pytest.raises(LogError) as caught:
        ask(subjects)
    said = str(caught.value)
    assert said.startswith("schema registry http://127.0.0.1:")
    assert "/path: " in said
    for remedy in ("answered 404", "ESPER_REGISTRY", ".../apis/ccompat/v7", "`esper dev status`"):
        assert remedy in said


@pytest.mark.parametrize("body", ["<html>Welcome</html>", '"hello"', "null", "{}"])
def test_what_answers_but_is_no_registry_is_named(registry: Callable[[int, str], Subjects], body: str) -> None:
    with (
        closing(registry(200, body)) as subjects,
        pytest.raises(LogError, match=r"no schema registry.*ESPER_REGISTRY.*/apis/ccompat/v7"),
    ):
        subjects.text(1)


def test_a_setting_that_is_missing_says_where_a_registry_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_REGISTRY", raising=False)
    with pytest.raises(UsageError, match=r"set ESPER_REGISTRY to .*/apis/ccompat/v7.*`esper dev status`"):
        registry_settings()
