"""What a worker answers to whom, without one running."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from streams.app import Place
from streams.web import Web
from tests.workers import free_port

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
    place = Place(name="one", host="127.0.0.1", port=free_port(), data=Path(), token=SecretStr(TOKEN))
    return App(place=place, generation=SimpleNamespace(number=2))


def ask(app: Any, path: str, method: str = "GET", token: str | None = TOKEN) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""

    async def asked() -> tuple[int, Any, Any]:
        served = Web(app)
        await served.start()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
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
