"""The transition table, walked at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.seed.stages import (
    IN_THE_HOST,
    LIVE,
    SEED_MOVES,
    IllegalMove,
    Stage,
    move,
)

stages = st.sampled_from(Stage)


@given(stages, stages)
def test_a_seed_moves_as_the_table_says_or_not_at_all(current: Stage, to: Stage) -> None:
    if to in SEED_MOVES[current]:
        assert move(current, to) is to
    else:
        with pytest.raises(IllegalMove, match=f"{current} to {to}"):
            move(current, to)


@given(st.data())
def test_every_life_passes_its_stages_in_order_and_can_end_well_or_badly(data: st.DataObject) -> None:
    life = [Stage.DORMANT]
    while SEED_MOVES[life[-1]] and len(life) < 30:
        life.append(move(life[-1], data.draw(st.sampled_from(sorted(SEED_MOVES[life[-1]])))))
    order = [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILISED]
    reached = [stage for stage in dict.fromkeys(life[1:]) if stage is not Stage.CULLED]
    assert reached == order[: len(reached)]
    assert all(stage in LIVE for stage in life[1:-1])
    assert life.count(Stage.DORMANT) == 1
    if not SEED_MOVES[life[-1]]:
        assert life[-1] in {Stage.FOSSILISED, Stage.CULLED}


@pytest.mark.parametrize("stage", sorted(LIVE))
def test_every_live_seed_can_be_culled(stage: Stage) -> None:
    assert move(stage, Stage.CULLED) is Stage.CULLED


def test_only_a_held_seed_becomes_a_fossil_and_what_has_ended_stays_ended() -> None:
    assert {stage for stage, moves in SEED_MOVES.items() if Stage.FOSSILISED in moves} == {Stage.HOLDING}
    assert {stage for stage, moves in SEED_MOVES.items() if not moves} == {Stage.FOSSILISED, Stage.CULLED}
    assert IN_THE_HOST < LIVE
    assert set(SEED_MOVES) == set(Stage)
