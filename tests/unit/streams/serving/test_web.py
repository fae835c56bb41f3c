"""What a worker answers to whom, without one running."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from streams.serving.served import WorkerOptions
from streams.serving.web import Web
from tests.support.services.broken_http import BROKEN, send
from tests.support.services.workers import free_port

TOKEN = "a token for this test"


class App(SimpleNamespace):
    """As much of a worker's application as these answers need."""

    why = ""

    def waits_for(self) -> str:
        return self.why

    def partitions(self) -> list[int]:
        return [3]


@pytest.fixture
def app() -> App:
    place = WorkerOptions(name="one", host="127.0.0.1", port=free_port(), data=Path(), token=SecretStr(TOKEN))
    return App(place=place, generation=SimpleNamespace(number=2))


def ask(
    app: Any, path: str, method: str = "GET", token: str | None = TOKEN, host: str | None = None
) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""

    async def asked() -> tuple[int, Any, Any]:
        served = Web(app)
        await served.start()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Host": host} if host is not None else {}
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, f"{app.place.url}{path}", headers=headers) as answer,
            ):
                return answer.status, await answer.json(), answer.headers
        finally:
            await served.stop()

    return asyncio.run(asked())


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api/v1", "/api/v1/runs/a/b", "/api/v1/decisions/run:none"])
def test_a_path_that_there_is_not_is_json_too(app: App, path: str) -> None:
    status, told, _ = ask(app, path)
    assert (status, told) == (404, {"error": f"there is no {path}"})


def test_a_method_that_there_is_not_is_json_too(app: App) -> None:
    status, told, headers = ask(app, "/ready", method="POST")
    assert (status, told) == (405, {"error": "/ready: Method Not Allowed"})
    assert headers["Allow"] == "GET,HEAD"


def test_who_may_not_read_does_not_learn_which_paths_there_are(app: App) -> None:
    assert ask(app, "/nowhere", token=None)[0] == 401


def test_ready_says_why_it_is_not(app: App) -> None:
    assert ask(app, "/ready", token=None)[:2] == (200, {"ready": True, "partitions": [3], "generation": 2})
    app.why = "kafka does not answer"
    assert ask(app, "/ready", token=None)[:2] == (
        503,
        {"ready": False, "partitions": [3], "generation": 2, "why": "kafka does not answer"},
    )


@pytest.mark.parametrize("path", ["/ready", "/health", "/metrics", "/api/v1/runs", "/nowhere"])
def test_a_strangers_name_that_leads_here_is_not_answered(app: App, path: str) -> None:
    status, told, _ = ask(app, path, host=f"evil.example:{app.place.port}")
    assert status == 403
    assert told["error"].startswith("this is not served under that name")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:7780"])
def test_any_name_of_loopback_is(app: App, host: str) -> None:
    assert ask(app, "/ready", host=host)[0] == 200


def test_a_listener_at_another_address_is_called_by_that(app: App) -> None:
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        pytest.skip(f"{name} is not known to this machine itself")
    app.place = dataclasses.replace(app.place, host=name)
    assert ask(app, "/ready", host=f"{name}:{app.place.port}")[0] == 200
    assert ask(app, "/ready", host="evil.example")[0] == 403
    app.place = dataclasses.replace(app.place, host="0.0.0.0")
    assert ask(app, "/ready", host="any.example")[0] == 200


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_request_is_a_line_of_the_log_at_most(
    app: App, what: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level)

    async def asked() -> bytes:
        served = Web(app)
        await served.start()
        try:
            return await asyncio.to_thread(send, app.place.port, BROKEN[what])
        finally:
            await served.stop()

    answer = asyncio.run(asked())
    assert answer[9:10] != b"5"
    said = [record for record in caplog.records if record.name.startswith("esper") or record.levelno > logging.INFO]
    assert len(said) <= (level == logging.DEBUG)
    assert all("\n" not in record.getMessage() and record.exc_info is None for record in said)


def test_what_fails_in_an_answer_is_a_line_and_a_traceback_only_to_debug(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    app.why = property()  # which is no JSON
    caplog.set_level(logging.INFO, "esper.worker")
    with pytest.raises(aiohttp.ContentTypeError):
        ask(app, "/ready")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Error handling request from 127.0.0.1: TypeError(")
    assert record.exc_info is None
    caplog.set_level(logging.DEBUG, "esper.worker")
    caplog.clear()
    with pytest.raises(aiohttp.ContentTypeError):
        ask(app, "/ready")
    assert [record.exc_info is None for record in caplog.records if record.levelno == logging.ERROR] == [False]
