"""Urza: the library of blueprints and kernels. Pure data and folds, without torch."""

from __future__ import annotations

from esper.events.assets import BlueprintRegistered as Blueprint
from esper.urza.fit import parameter_count
from esper.urza.library import Library, built_in, fold, register

__all__ = ["Blueprint", "Library", "built_in", "fold", "parameter_count", "register"]
