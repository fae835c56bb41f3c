"""Ids are fixed for ever: a log written today must be read by every later version."""

from __future__ import annotations

from esper.events.ids import asset_id, run_event_id, signal_id


def test_ids_are_the_same_in_every_version() -> None:
    assert str(run_event_id("run", 3, 77)) == "f78ed6c9-9f94-525f-b4e6-679fdd052812"
    assert str(signal_id("run", "me", "n1")) == "117133f5-48a8-50de-a433-f0e33810debf"
    assert str(asset_id("esper.assets.KernelCompiled", "00")) == "63946bf6-efea-577a-b547-1c48b66b3b40"


def test_every_part_of_an_id_counts() -> None:
    ids = {
        run_event_id("run", 1, 2),
        run_event_id("run", 2, 1),
        run_event_id("run", 12, 1),
        run_event_id("run", 1, 21),
        run_event_id("run2", 1, 2),
        signal_id("run", "me", "n"),
        signal_id("run", "men", ""),
        signal_id("run", "m", "en"),
        signal_id('run","me', "", "n"),
        asset_id("run", "me"),
        asset_id("run", "1"),
    }
    assert len(ids) == 11
    assert {identity.version for identity in ids} == {5}
