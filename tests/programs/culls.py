"""Runs ``moons`` with a seed that is culled out of the host, and tells whether the host went back as it must.

    culls.main("BLENDING"|"HOLDING", "command"|"audit"|"alarm", "start", HOME, RUN)

Only a seed that blends while another is fossilised is culled. What the host was when blending began is remembered
in a file of this program's own, apart from Esper's checkpoints; each restoration prints a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import moons

from esper.events.ids import signal_id
from esper.events.runs import BoundaryReached, SeedTransitioned
from esper.kasmina import generators
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.rules import script
from esper.tamiyo.run.state import RunState
from esper.tolaria.answers import Answers
from esper.tolaria.model.digest import digest_tree
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.trainer import Trainer


def main(stage: str, how: str, mode: str, home: str, run_id: str) -> None:
    {"command": by_command, "audit": by_audit, "alarm": by_alarm}[how](Stage(stage))
    watch(Path(home) / f"{run_id}-blending.json")
    moons.main(mode, home, run_id)


def victim(seeds: Seeds, stage: Stage) -> str | None:
    """The seed to be culled: in ``stage`` for 10 steps, beside one that is fossilised."""
    if not any(map(_fossil, seeds)):
        return None
    found = (each for each in seeds if each.seed.stage is stage and seeds.step - each.since >= 10)
    return next((each.seed.name for each in found), None)


def by_command(stage: Stage) -> None:
    original = Answers._command

    def command(self: Answers, run_id: str) -> script.Command | None:
        seed = victim(self._seeds, stage)
        if seed is None or seed in asked:
            return original(self, run_id)
        asked.add(seed)
        return script.Command(signal_id(run_id, "test", seed), "cull", seed, "test")

    asked: set[str] = set()
    Answers._command = command  # type: ignore[method-assign]


def by_audit(stage: Stage) -> None:
    original = Answers._change

    def change(self: Answers, name: str, fold: int) -> script.Change | None:
        if victim(self._seeds, stage):
            return script.Change(mean=-1e9, s=0.0, ablation=0.0)
        return original(self, name, fold)

    Answers._change = change  # type: ignore[method-assign]


def by_alarm(stage: Stage) -> None:
    original = Trainer._arrival

    def arrival(self: Trainer, state: RunState, began: float) -> BoundaryReached:
        reached = original(self, state, began)
        return replace(reached, loss=1e9) if victim(self.seeds, stage) else reached

    Trainer._arrival = arrival  # type: ignore[method-assign]


def watch(memory: Path) -> None:
    original = Trainer.__init__

    def made(self: Trainer, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self._changes.apply = partial(watched, self, memory, self._changes.apply)  # type: ignore[method-assign]

    Trainer.__init__ = made  # type: ignore[method-assign]


def watched(
    trainer: Trainer, memory: Path, apply: Callable[[Iterable[object]], None], contents: Iterable[object]
) -> None:
    contents = list(contents)
    moves = [each for each in contents if isinstance(each, SeedTransitioned)]
    leaving = [move for move in moves if move.to_stage == "CULLED" and move.from_stage in ("BLENDING", "HOLDING")]
    before = goes_on(trainer, moves)
    apply(contents)
    if any(move.to_stage == "BLENDING" for move in moves):
        memory.write_text(json.dumps(goes_back(trainer)))
    for move in leaving:
        was, after = {**before, **json.loads(memory.read_text())}, goes_back(trainer) | goes_on(trainer, moves)
        told = {name: after[name] == was[name] for name in was}
        told["removed"] = move.seed not in trainer.seeds.placed
        told["fossils"] = any(map(_fossil, trainer.seeds))
        print("restored", json.dumps(told), flush=True)


def goes_back(trainer: Trainer) -> dict[str, str]:
    """Digests of what a cull returns to when blending began."""
    fossils = {each.seed.name: each.seed.optimizer.state_dict()["state"] for each in trainer.seeds if _fossil(each)}
    return {
        "parameters and buffers": digest_tree(trainer.subject.tensors()).digest,
        "optimiser state": digest_tree(trainer.subject.optimizer.state_dict()["state"]).digest,
        "fossils' optimiser state": digest_tree(fossils).digest,
    }


def goes_on(trainer: Trainer, moves: list[SeedTransitioned]) -> dict[str, str]:
    """Digests of what a cull leaves as it is; seeds that move at the same boundary are not looked at."""
    moving = {move.seed for move in moves}
    others = {each.seed.name: each.tree() for each in trainer.seeds if not _fossil(each)}
    return {
        "learning rates": digest_tree(trainer.subject.optimizer.state_dict()["param_groups"]).digest,
        "generators": digest_tree(generators.capture()).digest,
        "user state": digest_tree(trainer.subject.user_state()).digest,
        "step and place": str((trainer.step, trainer.cursor.epoch, trainer.cursor.batch)),
        "other seeds": digest_tree({name: tree for name, tree in others.items() if name not in moving}).digest,
    }


def _fossil(placed: Any) -> bool:
    return placed.seed.stage is Stage.FOSSILISED
