"""What decides whether two machines compute the same bits."""

from __future__ import annotations

import platform

import torch
from torch import nn

from esper.errors import EnvironmentMismatch
from esper.events.runs import Environment


def environment(model: nn.Module) -> Environment:
    """The present machine's, for a model on its device."""
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        device=f"{device.type}/{name}",
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def adopt(then: Environment, model: nn.Module, inexact: bool) -> tuple[str, ...]:
    """Set the thread count to the run's; returns, in words, what else differs in a way that can change bits.

    Raises EnvironmentMismatch when something does and ``inexact`` is false.
    """
    torch.set_num_threads(then.threads)
    now = environment(model)
    notes = tuple(
        f"{name} is {getattr(now, name)}, was {getattr(then, name)}"
        for name in ("torch", "device", "capability", "threads", "deterministic")
        if getattr(now, name) != getattr(then, name)
    )
    if notes and not inexact:
        raise EnvironmentMismatch(
            f"bits may differ here: {'; '.join(notes)}; resume where the run began, or pass --inexact (inexact=True) "
            "to go on all the same"
        )
    return notes
