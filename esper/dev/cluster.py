"""Brokers and a registry in one folder: started, mended, stopped, told about.

``HOME/state.json`` holds their ports, so that addresses survive a restart, and their processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from esper.dev import broker, registry
from esper.dev.broker import BrokerNode
from esper.dev.jars import Jars, fetched
from esper.dev.ports import answers, free_ports, is_free
from esper.dev.processes import Process, alive, stop
from esper.errors import ClusterUnavailable, UsageError
from esper.system.locks import locked
from esper.system.private import make_folder, open_file

REGISTRY = "registry"
_START = 90.0  # seconds for all to answer; 2 s for a broker and 8 s for the registry are usual
_STOP = 20.0
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Addresses:
    """``log`` is what ``ESPER_LOG`` takes, ``registry`` what ``ESPER_REGISTRY`` does; empty without a registry."""

    log: str
    registry: str


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the cluster. ``pid`` is None when it does not run."""

    name: str
    address: str
    pid: int | None
    answers: bool


@dataclass(slots=True)
class _State:
    cluster_id: str
    nodes: list[BrokerNode]
    registry_port: int | None
    processes: dict[str, Process] = field(default_factory=dict)


def _silent(text: str) -> None: ...


class Cluster:
    """The cluster whose data, ports and logs lie in the folder ``home``. ``settings`` are a broker's own, on top of
    those for development; they hold for brokers that this object starts."""

    def __init__(self, home: str | Path, settings: Mapping[str, str] | None = None) -> None:
        self.home = Path(home).absolute()
        self.settings = dict(settings or {})

    def up(
        self, brokers: int | None = None, *, with_registry: bool = True, say: Callable[[str], None] = _silent
    ) -> Addresses:
        """Start what does not run, wait until all of it answers, and return the addresses.

        A new cluster has ``brokers`` brokers, one or three (None: one); one that is there keeps its number. Raises
        UsageError for another number, ClusterUnavailable when something cannot be fetched, start or answer.
        """
        if brokers not in (None, 1, 3):
            raise UsageError(f"a cluster has 1 broker or 3, not {brokers}")
        jars = fetched(say)
        with self._locked():
            state = self._read() or self._new(brokers or 1, with_registry)
            if brokers not in (None, len(state.nodes)):
                raise UsageError(
                    f"the cluster in {self.home} has {len(state.nodes)} broker(s); choose another folder for "
                    f"{brokers}: esper dev up --brokers {brokers} --home FOLDER, and so for status and down"
                )
            self._start_brokers(jars, state, [node.number for node in state.nodes], say)
            if state.registry_port is not None:
                self._start_registry(jars, state, state.registry_port, say)
            return _addresses(state)

    def start_broker(self, number: int) -> None:
        """Start this broker alone and wait until it answers; the others may be down."""
        with self._locked():
            self._start_brokers(fetched(), self._existing(), [number], _silent)

    def down(self) -> list[str]:
        """Stop what runs; returns its names. Data and ports stay."""
        if self._read() is None:
            return []
        with self._locked():
            state = self._read()
            if state is None:
                return []
            running = {name: process for name, process in state.processes.items() if alive(process)}
            stop([process for name, process in running.items() if name == REGISTRY], patience=_STOP)
            stop([process for name, process in running.items() if name != REGISTRY], patience=_STOP)
            state.processes.clear()
            self._write(state)
            return sorted(running)

    def status(self) -> list[Service]:
        """What there is; empty where no cluster was ever started."""
        state = self._read()
        if state is None:
            return []
        up = _answering(state.nodes)
        services = [
            Service(name := _name(node.number), node.address, _pid(state, name), node.number in up)
            for node in state.nodes
        ]
        if state.registry_port is not None:
            url = registry.url(state.registry_port)
            services.append(Service(REGISTRY, url, _pid(state, REGISTRY), registry.answers(url)))
        return services

    def addresses(self) -> Addresses:
        """Where the cluster is or would be; raises ClusterUnavailable if there is none."""
        return _addresses(self._existing())

    def process(self, number: int) -> Process:
        """The process of a broker; raises ClusterUnavailable if it was not started."""
        try:
            return self._existing().processes[_name(number)]
        except KeyError:
            raise ClusterUnavailable(f"{self.home}: broker {number} does not run") from None

    def _start_brokers(self, jars: Jars, state: _State, numbers: list[int], say: Callable[[str], None]) -> None:
        nodes = [node for node in state.nodes if node.number in numbers]
        names = [_name(node.number) for node in nodes]

        def start() -> list[str]:
            down = [node for node in nodes if _pid(state, _name(node.number)) is None]
            if down:
                say(f"starting {', '.join(_name(node.number) for node in down)}")
            self._launch_brokers(jars, state, down)
            return [_name(node.number) for node in down]

        self._bring_up(state, names, start, lambda: set(numbers) <= _answering(nodes))

    def _launch_brokers(self, jars: Jars, state: _State, nodes: list[BrokerNode]) -> None:
        for port in (port for node in nodes for port in (node.port, node.controller_port)):
            self._check_free(port)
        with ThreadPoolExecutor(max(1, len(nodes))) as pool:
            list(pool.map(lambda node: self._prepare(jars, state, node), nodes))
        heap = "1g" if len(state.nodes) == 1 else "512m"
        for node in nodes:
            state.processes[_name(node.number)] = broker.start(jars, self._folder(_name(node.number)), heap=heap)
            self._write(state)

    def _prepare(self, jars: Jars, state: _State, node: BrokerNode) -> None:
        folder = self._folder(_name(node.number))
        broker.prepare(jars, node, state.nodes, state.cluster_id, folder, self.settings)

    def _start_registry(self, jars: Jars, state: _State, port: int, say: Callable[[str], None]) -> None:
        url = registry.url(port)

        def start() -> list[str]:
            if _pid(state, REGISTRY) is not None:
                return []
            say("starting the registry")
            self._check_free(port)
            brokers = [node.address for node in state.nodes]
            state.processes[REGISTRY] = registry.start(jars, self._folder(REGISTRY), port=port, brokers=brokers)
            self._write(state)
            return [REGISTRY]

        self._bring_up(state, [REGISTRY], start, lambda: registry.answers(url))

    def _bring_up(
        self, state: _State, names: list[str], start: Callable[[], list[str]], ready: Callable[[], bool]
    ) -> None:
        """``start`` starts those of ``names`` that do not run and returns them; then wait until ``ready``."""
        started = start()
        until = time.monotonic() + _START
        while not ready():
            ended = [name for name in names if _pid(state, name) is None]
            for name in ended:
                if name in started:
                    raise ClusterUnavailable(f"{name} ended while it started: {self._last_words(name)}")
            if ended:  # it was being killed when we came
                started += start()
            if time.monotonic() > until:
                raise ClusterUnavailable(
                    f"{', '.join(names)} did not answer within {_START:.0f} s: {self._last_words(names[0])}"
                )
            time.sleep(_POLL)

    def _check_free(self, port: int) -> None:
        if not is_free(port):
            raise ClusterUnavailable(
                f"port {port} of the cluster in {self.home} is taken by another program; stop that, or remove the "
                "folder for a new cluster with other ports"
            )

    def _last_words(self, name: str) -> str:
        path = self._folder(name) / ("registry.log" if name == REGISTRY else "broker.log")
        try:
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        except FileNotFoundError:
            lines = []
        telling = [line for line in lines if "ERROR" in line or "Exception" in line or "rror:" in line]
        return f"{(telling or lines or ['it said nothing'])[-1].strip()} (all of it is in {path})"

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        make_folder(folder)
        return folder

    def _new(self, brokers: int, with_registry: bool) -> _State:
        ports = free_ports(2 * brokers + 1)
        nodes = [BrokerNode(n + 1, ports[2 * n], ports[2 * n + 1]) for n in range(brokers)]
        state = _State(broker.new_cluster_id(), nodes, ports[-1] if with_registry else None)
        self._write(state)
        return state

    def _existing(self) -> _State:
        state = self._read()
        if state is None:
            raise ClusterUnavailable(f"there is no cluster in {self.home}; `esper dev up --home {self.home}` makes one")
        return state

    def _read(self) -> _State | None:
        path = self.home / "state.json"
        try:
            said = json.loads(path.read_text())
            return _State(
                said["cluster_id"],
                [BrokerNode(**node) for node in said["nodes"]],
                said["registry_port"],
                {name: Process(**process) for name, process in said["processes"].items()},
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterUnavailable(f"{path} is not a cluster's state ({error}); remove {self.home}") from error

    def _write(self, state: _State) -> None:
        make_folder(self.home)
        temporary = self.home / "state.json.new"
        with open(open_file(temporary, os.O_WRONLY | os.O_TRUNC), "w") as file:
            json.dump(asdict(state), file, indent=2)
        os.replace(temporary, self.home / "state.json")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time."""
        make_folder(self.home)
        until = time.monotonic() + 2 * _START
        with open(open_file(self.home / "lock", os.O_WRONLY), "w") as lock:
            while not locked(lock.fileno()):
                if time.monotonic() > until:
                    raise ClusterUnavailable(f"another command is busy with the cluster in {self.home}")
                time.sleep(_POLL)
            yield


def _name(number: int) -> str:
    return f"broker-{number}"


def _pid(state: _State, name: str) -> int | None:
    process = state.processes.get(name)
    return process.pid if process is not None and alive(process) else None


def _answering(nodes: list[BrokerNode]) -> set[int]:
    """The numbers of those that answer; for some seconds the others still believe in one that was killed."""
    listening = {node.number: node.address for node in nodes if answers(node.port)}
    return listening.keys() & broker.known_brokers(listening.values()) if listening else set()


def _addresses(state: _State) -> Addresses:
    log = "kafka://" + ",".join(node.address for node in state.nodes)
    return Addresses(log, "" if state.registry_port is None else registry.url(state.registry_port))
