"""Numbers, times and lists as a person reads them."""

from __future__ import annotations

from esper.nissa.report.words import duration, figure, listed, percent, size


def test_words():
    assert [figure(value) for value in (None, 0.0, -0.00201, 0.0000957, 1234.5, 1e-9)] == [
        "–",
        "0",
        "−0.00201",
        "0.0000957",
        "1,234",
        "1e−09",
    ]
    told = [duration(value).replace("\u00a0", " ") for value in (None, 0.0102, 4.24, 59.7, 192, 7500, 360_000)]
    assert told == ["–", "10.2 ms", "4.2 s", "1 min", "3 min 12 s", "2 h 5 min", "4 d 4 h"]
    assert (percent(0.0123), size(9_660_000)) == ("1.23\u00a0%", "9.66\u00a0MB")
    assert [listed(parts) for parts in ((), ("a",), ("a", "b", "c"))] == ["", "a", "a, b and c"]
