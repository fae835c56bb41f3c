"""Runs ``moons`` with a seed that is culled out of the host, and tells whether the host went back as it must.

    culls.main("BLENDING"|"HOLDING", "command"|"audit"|"alarm", "start", HOME, RUN)

Only a seed that blends while another is fossilised is culled. What the host was when blending began is remembered
in a file of this program's own, apart from Esper's checkpoints; each restoration prints a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import moons

from esper.events.ids import signal_id
from esper.events.runs import Evidence, SeedTransitioned
from esper.events.signals import CommandIssued
from esper.kasmina import generators
from esper.kasmina.stages import Stage
from esper.tamiyo.state import RunState
from esper.tolaria import boundary
from esper.tolaria.boundary import Boundary
from esper.tolaria.digest import digest_tree
from esper.tolaria.inbox import Command
from esper.tolaria.trainer import Trainer


def main(stage: str, how: str, mode: str, home: str, run_id: str) -> None:
    {"command": by_command, "audit": by_audit, "alarm": by_alarm}[how](Stage(stage))
    watch(Path(home) / f"{run_id}-blending.json")
    moons.main(mode, home, run_id)


def victim(state: RunState, stage: Stage) -> str | None:
    """The seed to be culled: in ``stage`` for 10 steps, beside one that is fossilised."""
    if all(each.stage is not Stage.FOSSILISED for each in state.seeds.values()):
        return None
    return next((e.name for e in state.seeds.values() if e.stage is stage and state.step - e.since >= 10), None)


def by_command(stage: Stage) -> None:
    original = Boundary.answer

    def answer(self: Boundary, tx: Any, commands: Any, step: int) -> Any:
        seed = victim(tx.state, stage)
        content = CommandIssued(command="cull", seed=seed, issuer="test", nonce=f"{seed}", reason="")
        identity = signal_id(tx.state.run_id, content.issuer, content.nonce)
        commands = [*commands, Command(identity, content)] if seed else commands
        return original(self, tx, commands, step)

    Boundary.answer = answer  # type: ignore[method-assign]


def by_audit(stage: Stage) -> None:
    original = Boundary._audit

    def audit(self: Boundary, state: RunState, seed: Any, step: int) -> Any:
        if victim(state, stage):
            return Stage.CULLED, "audit", Evidence(passed=False, reason="the test says so")
        return original(self, state, seed, step)

    Boundary._audit = audit  # type: ignore[method-assign]


def by_alarm(stage: Stage) -> None:
    original = Boundary.judge

    def judge(self: Boundary, tx: Any, step: int) -> None:
        alarm = boundary.alarm
        if victim(tx.state, stage):
            boundary.alarm = lambda losses, spike: "the test says so"  # type: ignore[attr-defined]
        original(self, tx, step)
        boundary.alarm = alarm  # type: ignore[attr-defined]

    Boundary.judge = judge  # type: ignore[method-assign]


def watch(memory: Path) -> None:
    original = Trainer.__init__

    def made(self: Trainer, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self._changes.apply = partial(watched, self, memory, self._changes.apply)  # type: ignore[method-assign]

    Trainer.__init__ = made  # type: ignore[method-assign]


def watched(
    trainer: Trainer, memory: Path, apply: Callable[..., list[str]], moves: list[SeedTransitioned]
) -> list[str]:
    leaving = [move for move in moves if move.to_stage == "CULLED" and move.from_stage in ("BLENDING", "HOLDING")]
    before = goes_on(trainer, moves)
    reasons = apply(moves)
    if any(move.to_stage == "BLENDING" for move in moves):
        memory.write_text(json.dumps(goes_back(trainer)))
    for move in leaving:
        was, after = {**before, **json.loads(memory.read_text())}, goes_back(trainer) | goes_on(trainer, moves)
        told = {name: after[name] == was[name] for name in was}
        told["removed"] = move.seed not in trainer.garden.plants
        told["fossils"] = any(each.seed.stage is Stage.FOSSILISED for each in trainer.garden)
        print("restored", json.dumps(told), flush=True)
    return reasons


def goes_back(trainer: Trainer) -> dict[str, str]:
    """Digests of what a cull returns to when blending began."""
    fossils = {each.seed.name: each.seed.optimizer.state_dict()["state"] for each in trainer.garden if _fossil(each)}
    return {
        "parameters and buffers": digest_tree(trainer.subject.tensors()).digest,
        "optimiser state": digest_tree(trainer.subject.optimizer.state_dict()["state"]).digest,
        "fossils' optimiser state": digest_tree(fossils).digest,
    }


def goes_on(trainer: Trainer, moves: list[SeedTransitioned]) -> dict[str, str]:
    """Digests of what a cull leaves as it is; seeds that move at the same boundary are not looked at."""
    moving = {move.seed for move in moves}
    others = {each.seed.name: each.tree() for each in trainer.garden if not _fossil(each)}
    return {
        "learning rates": digest_tree(trainer.subject.optimizer.state_dict()["param_groups"]).digest,
        "generators": digest_tree(generators.capture()).digest,
        "user state": digest_tree(trainer.subject.user_state()).digest,
        "step and place": str((trainer.step, trainer.cursor.epoch, trainer.cursor.batch)),
        "other seeds": digest_tree({name: tree for name, tree in others.items() if name not in moving}).digest,
    }


def _fossil(plant: Any) -> bool:
    return plant.seed.stage is Stage.FOSSILISED
