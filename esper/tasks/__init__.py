"""The built-in tasks: data, a host that is starved on purpose, and how it is trained. Imported when loaded."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from esper.errors import UsageError

if TYPE_CHECKING:
    from esper.tasks.task import Task

_MODULES = {"fashion-mnist": "esper.tasks.fashion_mnist", "digits": "esper.tasks.digits"}
TASKS = tuple(_MODULES)


def load_task(name: str) -> Task:
    """The task called ``name`` with its data in memory; raises UsageError, or DataUnavailable."""
    if name not in _MODULES:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(TASKS)}"
        raise UsageError(f"there is no task {name!r}; {hint}")
    task: Task = importlib.import_module(_MODULES[name]).task()
    return task
