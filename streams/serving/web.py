"""The views as JSON over HTTP. Lists ask every worker and name the partitions that did not answer; a single run is
asked of the worker that has it. Whoever may not read gets nothing but ``/health`` and ``/ready``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import http_exceptions, web

from esper.errors import UsageError
from esper.events.topics import PARTITIONS
from esper.log.partitions import partition_of
from esper.system.hosts import REFUSED, is_own
from esper.tamiyo.run.view import unpacked
from streams.serving import metrics
from streams.serving.served import Served, WorkerOptions

logger = logging.getLogger("esper.worker")
PEER_TIMEOUT = 3.0
"""Seconds that another worker has to answer."""
_OPEN = ("/health", "/ready")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Web:
    """Serves the views of ``app`` at its place."""

    def __init__(self, app: Served) -> None:
        self._app, self._place = app, app.place
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Listen, and make a client for asking other workers. Raises UsageError for a certificate that cannot be
        used."""
        served = web.Application(middlewares=[self._admit])
        served.add_routes(
            [
                web.get("/api/v1/runs", self._runs),
                web.get("/api/v1/runs/{run}", self._run),
                web.get("/api/v1/runs/{run}/seeds", self._seeds),
                web.get("/api/v1/decisions/{run}:{sequence:[0-9]{1,19}}", self._decision),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
            ]
        )
        server, client = contexts(self._place)
        token = self._place.token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=client if client else True),
            timeout=aiohttp.ClientTimeout(total=PEER_TIMEOUT),
        )
        self._runner = web.AppRunner(served, access_log=None, logger=_of_requests(), shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._place.host, self._place.port, ssl_context=server).start()

    async def stop(self) -> None:
        """Stop listening and close the client."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_own(request.headers.get("Host"), self._place.host):
            return _error(403, REFUSED)
        token = self._place.token
        if token is not None and request.path not in _OPEN:
            given = request.headers.get("Authorization", "")
            wanted = f"Bearer {token.get_secret_value()}"
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode()):
                return _error(401, "a token is needed: Authorization: Bearer ...")
        try:
            return await handler(request)
        except web.HTTPException as error:  # of the routes: no such path, not this method
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            told = f"there is no {request.path}" if error.status == 404 else f"{request.path}: {error.reason}"
            return _error(error.status, told, headers)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "generation": self._app.generation.number})

    async def _ready(self, request: web.Request) -> web.Response:
        why = self._app.waits_for()
        told = {"ready": not why, "partitions": self._app.partitions(), "generation": self._app.generation.number}
        return web.json_response(told | ({"why": why} if why else {}), status=503 if why else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(self._app), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _runs(self, request: web.Request) -> web.Response:
        """Every run's head, of all workers unless only this one's are asked for."""
        own = self._own_runs()
        if "local" in request.query:
            return web.json_response(own)
        others = [url for url in self._app.workers() if url != self._place.url]
        answers = [own, *filter(None, await asyncio.gather(*map(self._asked, others)))]
        runs = {run["run_id"]: run for answer in answers for run in answer["runs"]}
        answered = {partition for answer in answers for partition in answer["partitions"]}
        missing = sorted(set(range(PARTITIONS)) - answered)
        return web.json_response({"runs": [runs[name] for name in sorted(runs)], "unanswered": missing})

    def _own_runs(self) -> dict[str, Any]:
        partitions = self._app.partitions() if self._app.ready else []
        heads = (self._app.runs_table.heads(partition) for partition in partitions)
        runs = [_run(key, head) for found in heads for key, value in found if (head := unpacked(value)) is not None]
        return {"runs": runs, "partitions": partitions}

    async def _asked(self, url: str) -> dict[str, Any] | None:
        assert self._session is not None
        try:
            async with self._session.get(f"{url}/api/v1/runs", params={"local": "1"}) as response:
                answer = await response.json() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        whole = isinstance(answer, dict) and answer.keys() >= {"runs", "partitions"}
        return answer if whole else None

    async def _run(self, request: web.Request) -> web.Response:
        def told(run_id: str, partition: int) -> dict[str, Any] | None:
            head = unpacked(self._app.runs_table.stored(partition, run_id))
            if head is None:
                return None
            alerts = [unpacked(value) for _, value in self._app.alerts_table.under(partition, f"{run_id}/alert/")]
            return _run(run_id, head) | {"alerts": [alert["state"] for alert in alerts if alert is not None]}

        return await self._owned(request, told)

    async def _seeds(self, request: web.Request) -> web.Response:
        def told(run_id: str, partition: int) -> dict[str, Any] | None:
            head = unpacked(self._app.runs_table.stored(partition, run_id))
            if head is None:
                return None
            found = (unpacked(value) for _, value in self._app.runs_table.under(partition, f"{run_id}/seed/"))
            seeds = [piece for piece in found if piece is not None and "stage" in piece["state"]]
            return {"run_id": run_id, "sequence": head["sequence"], "seeds": seeds}

        return await self._owned(request, told)

    async def _decision(self, request: web.Request) -> web.Response:
        def told(run_id: str, partition: int) -> dict[str, Any] | None:
            key = f"{run_id}/decision/{int(request.match_info['sequence'])}"
            return unpacked(self._app.runs_table.stored(partition, key))

        return await self._owned(request, told)

    async def _owned(self, request: web.Request, told: Callable[[str, int], dict[str, Any] | None]) -> web.Response:
        """What the worker that has the run says of it."""
        run_id = request.match_info["run"]
        partition = partition_of(run_id)
        owner = self._app.owner(partition)
        if owner == self._place.url:
            if not self._app.ready:
                return _error(503, f"partition {partition} is being recovered; ask again")
            answer = told(run_id, partition)
            return web.json_response(answer) if answer is not None else _error(404, f"there is no {request.path}")
        if owner is None or "local" in request.query:
            return _error(503, f"no worker has partition {partition} now; ask again")
        assert self._session is not None
        try:
            async with self._session.get(f"{owner}{request.rel_url.raw_path}", params={"local": "1"}) as response:
                return web.json_response(await response.json(), status=response.status)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return _error(503, f"partition {partition} does not answer; ask again")


def contexts(place: WorkerOptions) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """TLS for those who ask this worker, and for asking others; raises UsageError."""
    if place.certificate is None:
        return None, None
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(place.certificate, place.key)
        client = ssl.create_default_context(cafile=str(place.ca) if place.ca else None)
    except (OSError, ValueError) as error:
        raise UsageError(f"ESPER_WORKER_CERTIFICATE, _KEY, _CA: {error}") from error
    return server, client


def _of_requests() -> logging.Logger:
    """Where the server logs: a line of ours instead of a traceback, and none for what was no HTTP."""
    ours = logging.getLogger(f"{logger.name}.http")
    ours.filters = [_in_a_line]
    return ours


def _in_a_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, http_exceptions.HttpProcessingError | web.RequestPayloadError):
        logger.debug("%s: %s", record.getMessage(), type(error).__name__)
        return False
    if error is not None:
        record.msg, record.args = "%s: %r", (record.getMessage(), error)
        if not logger.isEnabledFor(logging.DEBUG):
            record.exc_info = None
    return True


def _run(run_id: str, head: dict[str, Any]) -> dict[str, Any]:
    return {"run_id": run_id, "sequence": head["sequence"], "digest": head["digest"], "state": head["state"]}


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=headers)
