"""Tolaria: the trainer. ``start`` and ``resume`` give a ``Run``; what happens between two steps is in ``trainer``."""

from __future__ import annotations

from esper.tolaria.run import Run
from esper.tolaria.start import resume, start
from esper.tolaria.weights import load

__all__ = ["Run", "load", "resume", "start"]
