"""Esper trains PyTorch networks that grow while they train, and keeps the whole training as events on a log.

``esper.start`` begins a run, ``esper.resume`` goes on with one; both return a ``Run``, which drives the loop.
``esper.load`` and ``esper.build`` put what was grown into a model, ``esper.connect`` reads runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from esper.errors import EsperError, RunEnded
from esper.version import __version__

if TYPE_CHECKING:
    from esper.client.runs import Connection, RunRecord, connect
    from esper.settings import Settings
    from esper.tezzeret.grown import growable
    from esper.tezzeret.saved import build
    from esper.tolaria import Run, load, resume, start

__all__ = [
    "Connection",
    "EsperError",
    "Run",
    "RunEnded",
    "RunRecord",
    "Settings",
    "__version__",
    "build",
    "connect",
    "growable",
    "load",
    "resume",
    "start",
]

# Imported on first use: commands that only read the log need no torch.
_LATER = {
    "Connection": "esper.client.runs",
    "Run": "esper.tolaria",
    "RunRecord": "esper.client.runs",
    "Settings": "esper.settings",
    "build": "esper.tezzeret.saved",
    "connect": "esper.client.runs",
    "growable": "esper.tezzeret.grown",
    "load": "esper.tolaria",
    "resume": "esper.tolaria",
    "start": "esper.tolaria",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'esper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
