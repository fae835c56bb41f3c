"""Which checkpoints may go."""

from __future__ import annotations

from esper.tamiyo.rules.checkpoints import blend_starts, expendable
from tests.support.runs.histories import History


def gone(history: History, keep: int = 2, due: int | None = None) -> list[int]:
    newest = max(each.step for each in history.state.checkpoints)
    return [each.step for each in expendable(history.state, keep, newest if due is None else due)]


def with_checkpoints(*steps: int, history: History | None = None) -> History:
    history = history or History()
    for step in steps:
        history.checkpoint(step)
    return history


def test_the_first_and_the_newest_are_kept() -> None:
    history = with_checkpoints(10, 20, 30, 40)
    assert gone(history) == [10, 20]
    assert gone(history, keep=1) == [10, 20, 30]
    assert gone(history, keep=9) == []


def test_the_one_to_which_the_governor_would_go_back_is_kept() -> None:
    assert gone(with_checkpoints(10, 20, 30, 40), due=10) == [20]


def test_a_pause_does_not_push_out_what_was_due() -> None:
    history = with_checkpoints(10, 20)
    for step in (21, 22, 23):
        history.checkpoint(step)
    paused = [each.step for each in history.state.checkpoints if each.step > 20]
    state = history.state
    state.checkpoints = tuple(
        type(each)(step=each.step, manifest=each.manifest, sequence=1, reason="pause", size=1)
        if each.step in paused
        else each
        for each in state.checkpoints
    )
    assert [each.step for each in expendable(state, 2, 20)] == [21, 22]


def test_the_checkpoint_from_when_blending_began_is_kept_while_the_seed_is_in_the_host() -> None:
    history = History()
    name = history.grown("a", 10, "TRAINING", "BLENDING")
    with_checkpoints(10, 20, 30, 40, history=history)
    assert blend_starts(history.state, 40) == {10}
    assert gone(history) == [20]
    history.move(name, "HOLDING", 45)
    with_checkpoints(50, history=history)
    assert gone(history) == [20, 30]
    history.move(name, "FOSSILISED", 55)
    with_checkpoints(60, 70, history=history)
    assert blend_starts(history.state, 40) == {10}
    assert blend_starts(history.state, 70) == set()
    assert gone(history) == [10, 20, 30, 40, 50]


def test_a_start_of_blending_is_kept_as_long_as_a_checkpoint_from_which_recovery_would_need_it() -> None:
    history = History()
    name = history.grown("a", 10, "TRAINING", "BLENDING")
    with_checkpoints(10, 20, 30, history=history)
    history.move(name, "CULLED", 35)
    with_checkpoints(40, history=history)
    assert gone(history) == [20]
    with_checkpoints(50, history=history)
    assert gone(history) == [10, 20, 30]


def test_before_blending_nothing_of_a_seed_is_needed() -> None:
    history = History()
    history.grown("a", 10, "TRAINING")
    with_checkpoints(10, 20, 30, 40, history=history)
    assert blend_starts(history.state, 40) == set()
    assert gone(history) == [10, 20]
