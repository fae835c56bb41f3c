"""What ``pip install esper-training`` leaves out, and the line that brings it: the extras of ``pyproject.toml``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper.errors import ExtraMissing

EXTRAS: dict[str, tuple[str, ...]] = {
    "kafka": ("confluent_kafka", "httpx", "attrs", "authlib", "cachetools"),
    "sql": ("clickhouse_connect", "chdb", "pyarrow", "orjson", "jinja2"),
    "metrics": ("prometheus_client",),
    "digits": ("sklearn",),
    "workers": ("faust", "aiohttp", "mode", "cramjam"),
}
"""The top-level packages that each extra brings, the first one telling whether it is there."""
WHAT = {
    "kafka": "a log on Kafka",
    "sql": "questions to ClickHouse, and reports",
    "metrics": "measurements for Prometheus",
    "digits": "the data of the task digits",
    "workers": "workers that keep views of a log on Kafka",
}


def is_there(extra: str) -> bool:
    """Whether the extra is installed."""
    name = EXTRAS[extra][0]
    return name in sys.modules or importlib.util.find_spec(name) is not None


def remedy(extra: str) -> str:
    """The command that installs the extra."""
    return f"pip install 'esper-training[{extra}]'"


def require(extra: str) -> None:
    """Raise ExtraMissing where the extra is not installed."""
    if not is_there(extra):
        raise _missing(extra, EXTRAS[extra][0])


def missing(error: ModuleNotFoundError) -> ExtraMissing | None:
    """The error to show where a package of an extra was not found; None where it belongs to none."""
    name = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if name in packages:
            return _missing(extra, name)
    return None


def _missing(extra: str, package: str) -> ExtraMissing:
    return ExtraMissing(f"{WHAT[extra]}: {package} is not installed; {remedy(extra)}")


@contextmanager
def naming_extras() -> Iterator[None]:
    """Turns a missing package of an extra into ExtraMissing."""
    try:
        yield
    except ModuleNotFoundError as error:
        known = missing(error)
        if known is None:
            raise
        raise known from error
