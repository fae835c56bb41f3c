"""Numbers, times and lists as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

import pytest

from esper.nissa.report.words import (
    count,
    dotted,
    duration,
    figure,
    listed,
    many,
    measured,
    moment,
    parsed,
    percent,
    sentence,
    signed,
    size,
    spelt,
)


def plain(text: str) -> str:
    """With blanks at which a line may break."""
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-0.00201, "−0.00201"),
        (0.0000957, "0.0000957"),
        (0.001, "0.001"),
        (0.00099949, "0.000999"),
        (1e-6, "0.00000100"),
        (1e-9, "1e−09"),
        (999.4, "999"),
        (1234.5, "1,234"),
        (-12345.0, "−12,345"),
        (1e15, "1e+15"),
        (inf, "inf"),
    ],
)
def test_a_figure_has_three_digits_that_count_and_a_real_minus(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0, "+0"), (0.5, "+0.5"), (-0.5, "−0.5")])
def test_a_signed_figure_has_a_plus_unless_it_is_negative(value: float | None, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0123, "1.23 %"), (0.863, "86.3 %"), (0.1, "10.0 %"), (-0.0123, "−1.23 %"), (0.0, "0.00 %")]
)
def test_a_share_has_more_digits_where_it_is_small(share: float, text: str) -> None:
    assert plain(percent(share)) == text
    assert "\u00a0%" in percent(share)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.8451, "84.51 %"),
        ("val/accuracy", 1.0, "100.00 %"),
        ("accuracy", 84.51, "84.5"),
        ("accuracy", -0.1, "−0.1"),
        ("loss", 0.5, "0.5"),
    ],
)
def test_accuracies_are_shares_where_they_can_be(name: str, value: float, text: str) -> None:
    assert plain(measured(name, value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0102, "10.2 ms"),
        (0.0994, "99.4 ms"),
        (0.0995, "0.1 s"),
        (4.24, "4.2 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (360_000, "4 d 4 h"),
        (100_000_000, "1,157 d 9 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert plain(duration(seconds)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (9_660_000, "9.66 MB"), (2e9, "2 GB"), (1e15, "1e+03 TB")],
)
def test_sizes_are_in_the_unit_below_a_thousand(number: int, text: str) -> None:
    assert plain(size(number)) == text


def test_counts_are_words_where_they_are_small() -> None:
    assert [spelt(number) for number in (0, 1, 9, 10, 1480)] == ["no", "one", "nine", "10", "1,480"]
    assert [many(number, "seed") for number in (0, 1, 2000)] == ["0 seeds", "1 seed", "2,000 seeds"]
    assert many(2, "loss", "losses") == "2 losses"
    assert count(1480) == "1,480"


def test_parts_are_listed_with_an_and() -> None:
    assert [listed(parts) for parts in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["", "a", "a and b", "a, b and c"]


def test_a_sentence_begins_with_a_capital_and_is_else_as_it_was() -> None:
    assert [sentence(text) for text in ("", "it is Mine", "É")] == ["", "It is Mine", "É"]


def test_times_are_utc() -> None:
    time = parsed("2026-11-02 20:06:01.500000")
    assert time == datetime(2026, 11, 2, 20, 6, 1, 500_000, UTC)
    assert plain(moment(time)) == "2 November 2026, 20:06 UTC"


def test_params_are_texts_by_dotted_names() -> None:
    assert dotted('{"a": {"b": 1, "c": "x"}, "d": ["ü", null]}') == {"a.b": "1", "a.c": "x", "d": '["ü", null]'}
    assert dotted("") == {}
