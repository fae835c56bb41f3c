"""What is served of a worker: the views that it holds, and how it is. Web and metrics need no more of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from streams.agents.decisions import Decisions
from streams.agents.runs import Runs
from streams.host.safe import OffsetsInFlight
from streams.host.tables import Pieces
from streams.views.generations import Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Where a worker listens, keeps its tables, and what it is called. Beyond loopback ``token`` and TLS are set."""

    name: str
    host: str
    port: int
    data: Path
    token: SecretStr | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def url(self) -> str:
        """How other workers reach this one."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"{'https' if self.certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def member(self) -> str:
        """Its name in the group: another address is another member, for a group keeps what it knows of one."""
        host = "".join(c if c.isalnum() else "-" for c in self.host)
        return f"{self.name}-{host}-{self.port}"


class Served(Protocol):
    """A worker's application, as far as it is served."""

    place: WorkerOptions
    generation: Generation
    runs: Runs
    decisions: Decisions
    runs_table: Pieces
    alerts_table: Pieces
    rebalances: int
    progress: OffsetsInFlight

    @property
    def ready(self) -> bool:
        """Whether its tables are recovered."""

    def waits_for(self) -> str:
        """Why the worker is not ready; empty where it is."""

    def partitions(self) -> list[int]:
        """Those of the run view that the worker has."""

    def workers(self) -> list[str]:
        """The addresses of all workers."""

    def owner(self, partition: int) -> str | None:
        """The address of the worker that has the partition."""

    def lag(self) -> Iterator[tuple[str, int, int]]:
        """Topic, partition, and how many records this partition of a source is behind."""
