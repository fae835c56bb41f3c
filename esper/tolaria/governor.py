"""When the governor gives up: pure functions of the folded run."""

from __future__ import annotations

from collections.abc import Sequence

from esper.settings import Governor


def hopeless(rollbacks: Sequence[int], step: int, updates: int, settings: Governor) -> str | None:
    """Why a loss that is not finite at ``step`` ends the run, in words; None if a rollback may help.

    ``rollbacks`` are the steps of all rollbacks so far, ``updates`` how often the optimiser has stepped.
    """
    if updates == 0:
        return "the loss is not finite before the first update; look at the data, the loss and the initial weights"
    recent = [each for each in rollbacks if each > step - settings.window]
    if len(recent) < settings.rollbacks:
        return None
    return (
        f"the loss is not finite, after {len(recent)} rollbacks within {settings.window} steps; "
        "lower the learning rate or look at the data"
    )
