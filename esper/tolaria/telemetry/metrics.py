"""What a program measures of itself, from ``run.log`` until it is on the log."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor

from esper.errors import UsageError
from esper.events import Event
from esper.events.runs import MetricsLogged

NAMES = 1000  # of a run, at most
LONGEST = 200  # characters of a name
VALUES = 20_000  # of one event, at most: 400 kB

Value = tuple[int, str]
"""What one value is of: the step after which it was logged, and its metric."""


def checked(values: Mapping[str, Any], known: Set[str]) -> dict[str, float]:
    """``values`` as floats, where ``known`` are the run's metrics so far. Raises UsageError, naming what is wrong."""
    if not isinstance(values, Mapping):
        raise UsageError(f'run.log takes values by name, such as {{"accuracy": 0.91}}, not {type(values).__name__}')
    found = {name if name in known else _name(name): _number(name, value) for name, value in values.items()}
    if not known >= found.keys() and (count := len(known | found.keys())) > NAMES:
        raise UsageError(
            f"run.log: these would be {count:,} different metrics, a run has {NAMES:,} at most; none of them "
            "was logged: log a mean, or write them to a file of your own"
        )
    return found


def measured_by_test(measured: Mapping[str, float]) -> dict[str, float]:
    """What the test at a run's end has measured, as floats. Raises UsageError for anything but numbers by name."""
    try:
        return {name.encode().decode(): float(value) for name, value in measured.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"finish(test=...) gave {str(measured)[:200]} ({error}); return numbers by name, such as "
            '{"accuracy": 0.91}, then resume the run to finish it'
        ) from error


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST or not name.isprintable():
        raise UsageError(
            f"run.log: {str(name)[:40]!r} is no name of a metric; use up to {LONGEST} printable characters in one line"
        )
    return name


def _number(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        one = value.numel() == 1 and not value.is_complex()
        value = value.detach()
    else:
        one = isinstance(value, numbers.Real) or (getattr(value, "shape", None) == () and hasattr(value, "item"))
    if one:
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # torch's, of a tensor without data
            pass
    what = f"of shape {list(value.shape)}" if hasattr(value, "shape") else repr(value)[:40]
    raise UsageError(
        f"run.log: {name!r} is a {type(value).__name__} {what}; give one number, such as value.mean().item()"
    )


class Pending:
    """Values that are not on the log yet. Those that it holds in ``events``, whose steps may be run again, are kept:
    what is measured then is dropped. ``names`` are those of the run's metrics, whether on the log or not."""

    def __init__(self, events: Iterable[Event], names: Iterable[str]) -> None:
        self.names = set(names)
        self._logged = {
            (step, event.content.names[metric])
            for event in events
            if isinstance(event.content, MetricsLogged)
            for metric, step in zip(event.content.metrics, event.content.steps, strict=True)
        }
        self._values: dict[Value, float] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` after ``step``; of one metric the last one counts."""
        self.names.update(values)
        for name, value in values.items():
            if (step, name) not in self._logged:
                self._values[step, name] = value

    def take(self) -> Iterator[MetricsLogged]:
        """The events of all that is pending, which then is no more."""
        values, self._values = list(self._values.items()), {}
        for begin in range(0, len(values), VALUES):
            part = values[begin : begin + VALUES]
            numbered = {name: number for number, name in enumerate(dict.fromkeys(name for (_, name), _ in part))}
            yield MetricsLogged(
                names=tuple(numbered),
                metrics=tuple(numbered[name] for (_, name), _ in part),
                steps=tuple(step for (step, _), _ in part),
                values=tuple(value for _, value in part),
            )
