"""Numbers, times and lists as a person reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from math import floor, log10

from esper.tamiyo.run.about import flat

NONE = "–"
_SPACE = "\u00a0"  # at which no line breaks
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def count(number: int) -> str:
    """``1,480``"""
    return f"{number:,}"


def spelt(number: int) -> str:
    """Small numbers as words."""
    return _SMALL[number] if number < len(_SMALL) else count(number)


def many(number: int, one: str, several: str = "") -> str:
    """``1 seed``, ``2 seeds``"""
    return f"{count(number)} {one if number == 1 else several or one + 's'}"


def figure(value: float | None) -> str:
    """A measured number with three digits that count, and a real minus sign."""
    if value is None:
        return NONE
    if 1e-6 <= abs(value) < 1e-3:
        text = f"{value:.{2 - floor(log10(abs(value)))}f}"
    else:
        text = f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
    return text.replace("-", "−")


def signed(value: float | None) -> str:
    """As ``figure``, with a plus before what is not negative."""
    return figure(value) if value is None or value < 0 else f"+{figure(value)}"


def percent(share: float) -> str:
    """``86.3 %``; small shares with more digits."""
    value = 100 * share
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}{_SPACE}%".replace("-", "−")


def measured(name: str, value: float) -> str:
    """A value by its metric's name: accuracies are shares."""
    return f"{100 * value:.2f}{_SPACE}%" if "accuracy" in name and 0 <= value <= 1 else figure(value)


def duration(seconds: float | None) -> str:
    """``12 ms``, ``4.2 s``, ``3 min 12 s``, ``2 h 5 min``, ``3 d 4 h``"""
    if seconds is None:
        return NONE
    if seconds < 0.0995:
        return f"{1000 * seconds:.3g}{_SPACE}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    for unit, name, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return _SPACE.join([count(whole // unit), name, *([str(rest), part] if rest else [])])
    return f"{whole}{_SPACE}s"


def size(number: int) -> str:
    """Bytes: ``9.7 MB``"""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{_SPACE}{unit}"
        value /= 1000
    return f"{value:,.3g}{_SPACE}TB"


def moment(time: datetime) -> str:
    """``22 November 2026, 20:56 UTC``"""
    return f"{time.day} {time:%B %Y, %H:%M}{_SPACE}UTC"


def parsed(text: str) -> datetime:
    """ClickHouse's times, which are all UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``"""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def sentence(text: str) -> str:
    """With a capital at its front."""
    return text[:1].upper() + text[1:]


def dotted(params: str) -> dict[str, str]:
    """JSON of hyper-parameters as texts by dotted names; none where there are none."""
    values = flat(params or "{}")
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
