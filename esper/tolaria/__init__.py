"""Tolaria: the trainer. ``start`` and ``resume`` give a ``Run``; what happens between two steps is in ``trainer``."""

from __future__ import annotations

from esper.tolaria.checkpoint.weights import load
from esper.tolaria.run import Run
from esper.tolaria.start import resume, start

__all__ = ["Run", "load", "resume", "start"]
