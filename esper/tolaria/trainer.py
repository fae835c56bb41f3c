"""The training itself: one step, and what happens between two."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from esper.errors import ReplayDivergence, RunEnded, TrainingFailed
from esper.events.runs import (
    BoundaryReached,
    RolledBack,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    SeedTransitioned,
    SiteTable,
)
from esper.kasmina import generators
from esper.kasmina.sites import Site, site_table, with_reasons
from esper.kasmina.stages import IN_THE_HOST, Stage
from esper.settings import Settings
from esper.tamiyo.state import RunState
from esper.tolaria.boundary import Boundary, transition
from esper.tolaria.changes import Changes
from esper.tolaria.checkpoint import Loaded, snapshot
from esper.tolaria.cursor import Cursor
from esper.tolaria.digest import StateDigest, batch_digest, digest_tree
from esper.tolaria.garden import Garden
from esper.tolaria.governor import hopeless
from esper.tolaria.host_pass import HostPass
from esper.tolaria.inbox import Inbox
from esper.tolaria.journal import Journal, Transaction
from esper.tolaria.keeper import Keeper
from esper.tolaria.meter import Meter
from esper.tolaria.replay import Replay
from esper.tolaria.subject import Pulse, Subject

logger = logging.getLogger("esper")

Costs = Callable[[list[Any]], Mapping[str, list[int]]]


@dataclass(slots=True)
class Window:
    """Losses since the last boundary, and whether the optimiser has ever stepped."""

    total: float = 0.0
    count: int = 0
    last: float = math.nan
    updates: int = 0

    def add(self, loss: float) -> None:
        self.total += loss
        self.count += 1
        self.last = loss
        self.updates += 1

    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


class Trainer:
    """Everything alive of one run in this process. All methods belong to the training thread."""

    def __init__(
        self,
        subject: Subject,
        garden: Garden,
        boundary: Boundary,
        journal: Journal,
        inbox: Inbox,
        keeper: Keeper,
        settings: Settings,
        replay: Replay,
        costs: Costs,
    ) -> None:
        self.subject, self.garden, self.boundary = subject, garden, boundary
        self.journal, self.inbox, self.keeper = journal, inbox, keeper
        self.settings, self.replay, self._costs = settings, replay, costs
        self.cursor, self.window = Cursor(), Window()
        self.meter: Meter | None = None
        self.step = 0
        self._handled = 0  # the last step after which rollback and boundary were looked at
        self._seconds = 0.0  # between steps, of which no boundary has told yet
        self._sequence = 0  # of the last event that the model's state includes, while replaying
        self._diverged = False
        self._changes = Changes(subject, garden, keeper)
        self._pass = HostPass(subject, garden, settings.boundary)
        self._tabled: tuple[list[Site], SiteTable] | None = None
        self._batch: Any = None
        self._pulse = Pulse(subject.model)
        self._first_generators = generators.capture()  # as they were when the run began

    def tree(self) -> dict[str, Any]:
        """The state that checkpoints keep."""
        window = self.window
        return {
            "model": self.subject.tensors(),
            "optimizer": self.subject.optimizer.state_dict(),
            "seeds": self.garden.tree(),
            "state": self.subject.user_state(),
            "flags": self.subject.flags(),
            "generators": generators.capture(),
            "window": [window.total, window.count, window.last, window.updates],
        }

    def digest(self) -> StateDigest:
        """The digest of the state at a boundary. A random generator that nobody has drawn from since the run began
        counts as untouched: two runs are not told apart by a generator that was never seeded nor used."""
        tree = self.tree()
        tree["generators"] = {
            name: "untouched" if generators.same(now, self._first_generators.get(name)) else now
            for name, now in tree["generators"].items()
        }
        return digest_tree(tree, self.journal.state.state_digests)

    def cursor_tree(self) -> dict[str, Any]:
        """What a resume needs besides the state."""
        return {
            "data": self.cursor.tree(),
            "due": self.keeper.due,
            "first_generators": self._first_generators,
            "reasons": [site.reason for site in self.garden.sites] if self._pass.counted else None,
        }

    def load(self, checkpoint: Loaded) -> None:
        """Take up a checkpoint whole."""
        tree = checkpoint.tree
        self.garden.rebuild(tree["seeds"])
        self.subject.load_tensors(tree["model"])
        self.subject.load_optimizer(tree["optimizer"], rates=True)
        self.subject.load_user_state(tree["state"])
        self.subject.load_flags(tree["flags"])
        self.window = Window(*tree["window"])
        self.step = self._handled = self.garden.step = checkpoint.step
        self._sequence = checkpoint.sequence
        self.keeper.due = checkpoint.cursor["due"]
        self._first_generators = checkpoint.cursor["first_generators"]
        if checkpoint.cursor["reasons"] is not None:  # calls were counted in the run's first step, once and for all
            self.garden.sites = with_reasons(self.garden.sites, checkpoint.cursor["reasons"])
            self._pass.counted = True
        self.cursor.load(checkpoint.cursor["data"])

    # One step

    def train(self, batch: Any) -> float:
        """Forward, backward, seeds, optimiser. Returns the mean loss; one that is not finite moves nothing."""
        subject, garden = self.subject, self.garden
        step = garden.step = self.step + 1
        self._batch = batch  # now, so that the one before is free when memory is needed
        training = garden.training()
        before = generators.capture() if training else {}
        subject.optimizer.zero_grad(set_to_none=True)
        measure = step % self.settings.boundary.steps == 0 and not self.replay.covers(step)
        value = self._pass.run(batch, step, measure)
        self.step = step
        if not math.isfinite(value):
            self._diverged = True
            return value
        for plant in training:
            garden.learn_isolated(plant, batch, before)
        self._clip()
        subject.optimizer.step()
        garden.learn_with_host()
        self.window.add(value)
        return value

    def _clip(self) -> None:
        if self.subject.clip_norm is not None:
            host = (each for group in self.subject.optimizer.param_groups for each in group["params"])
            nn.utils.clip_grad_norm_(host, self.subject.clip_norm)

    # Between two steps

    def between_steps(self, interrupted: bool) -> None:
        """Rollback or boundary, checkpoint, Ctrl-C: called when the loop asks for its next batch or epoch."""
        began = time.perf_counter()
        self._between(interrupted)
        self._seconds += time.perf_counter() - began

    def _between(self, interrupted: bool) -> None:
        self.journal.check()
        self.keeper.commit()
        if self.step > self._handled:
            before, self._handled = self._handled, self.step
            reasons, wish = self._act(before)
            if self.step - self.keeper.due >= self.settings.checkpoint.steps:
                reasons.append("steps")
            if reasons:
                self._checkpoint_due(*reasons)
            if wish == "stop":
                self._end("cancelled")
            if wish == "pause":
                self._pause("a pause command")
        if interrupted:
            self._pause("Ctrl-C")

    def end_epoch(self, interrupted: bool) -> None:
        """The loop asks for the next epoch."""
        self.between_steps(interrupted)
        self.cursor.next_epoch()
        self._checkpoint_due("epoch")

    def finish(self, test: Callable[[nn.Module], Mapping[str, float]] | None, interrupted: bool) -> None:
        """The loop is over: commit everything and complete the run."""
        self.between_steps(interrupted)
        if self.step < self.replay.last:
            raise ReplayDivergence(
                f"the loop ended at step {self.step}, but the run has logged steps up to {self.replay.last}; "
                "resume it with a loop that is at least as long"
            )
        self.keeper.commit(wait=True)
        measured = {name: float(value) for name, value in test(self.subject.model).items()} if test else {}
        stages = [str(seed.stage) for seed in self.journal.state.seeds.values()]
        transaction = self.journal.transaction()
        transaction.add(
            RunCompleted(
                step=self.step,
                final_loss=self.window.last,
                test=measured,
                parameters_digest=digest_tree(self.subject.tensors()).digest,
                seeds={stage: stages.count(stage) for stage in sorted(set(stages))},
            )
        )
        self.journal.commit(transaction)
        self.close()

    def close(self) -> None:
        """Stop the threads; what is queued is committed first, if the log still answers."""
        self.inbox.close()
        self.journal.close()
        self.keeper.close()
        if self.meter is not None:
            self.meter.close()

    def _act(self, before: int) -> tuple[list[str], str | None]:
        """What this step calls for: reasons for a checkpoint, and whether to ``pause`` or ``stop`` after it."""
        every = self.settings.boundary.steps
        due = self.step // every > before // every  # a loop may take several steps with one batch
        if self.replay.covers(self.step):
            return self._repeat(due), None
        if self._diverged:
            return self._roll_back(), None
        return self._reach_boundary() if due else ([], None)

    def _reach_boundary(self) -> tuple[list[str], str | None]:
        began = time.perf_counter()
        self._pulse.check()
        if self.garden.in_the_host():
            self.keeper.commit(wait=True)  # a cull goes back to one of them
        transaction = self.journal.transaction()
        transaction.add(self._arrival(transaction.state, began))
        self.boundary.reached(transaction.state)
        wish = self.boundary.answer(transaction, self.inbox.take(), self.step)
        self.boundary.judge(transaction, self.step)
        self.boundary.germinate(transaction, self.step)
        self.boundary.decide(transaction, self.step)
        if wish == "stop":
            transaction.add(RunCancelled(step=self.step, reason="a stop command"))
        moves = [content for content in transaction.contents if isinstance(content, SeedTransitioned)]
        if moves or wish:
            self.journal.commit(transaction)
        else:
            self.journal.submit(transaction)
        self.window.total, self.window.count = 0.0, 0
        return self._changes.apply(moves), wish

    def _arrival(self, state: RunState, began: float) -> BoundaryReached:
        digest = self.digest()
        table = self._table()
        trials = self.boundary.trials(state)
        now = time.perf_counter() - began
        before, self._seconds = self._seconds, -now
        return BoundaryReached(
            step=self.step,
            epoch=self.cursor.epoch,
            batch=self.cursor.batch,
            loss=self.window.mean(),
            learning_rate=float(self.subject.optimizer.param_groups[0]["lr"]),
            digest=digest.digest,
            tensors=digest.tensors,
            data=batch_digest(self._batch),
            first_data=self.cursor.first_data,
            sites=None if table == state.sites else table,
            health=self._pass.health,
            trials=trials,
            measured={"seconds": before + now},
        )

    def _table(self) -> SiteTable:
        sites = self.garden.sites
        if self._tabled is None or self._tabled[0] is not sites:  # the garden's list is replaced, never changed
            self._tabled = sites, site_table(sites, self._costs(sites))
        return self._tabled[1]

    def _repeat(self, due: bool) -> list[str]:
        """At a step that the log already holds: compare, then apply what it says."""
        logged = self.replay.at(self.step)
        if logged is None:
            if self._diverged or due:
                raise ReplayDivergence(
                    f"step {self.step} run again calls for a boundary or a rollback that the log does not hold; "
                    "resume with the code, arguments and machine that wrote it"
                )
            return []
        self._pulse.check()
        self._sequence = logged.sequence
        if logged.boundary is not None:
            digest = self.digest()
            self.replay.compare(logged.boundary, digest, batch_digest(self._batch), self.cursor.first_data)
            self.window.total, self.window.count = 0.0, 0
        if logged.rollback is None:
            return self._changes.apply(logged.transitions)
        self.keeper.commit(wait=True)
        self._diverged = False
        return self._changes.undo(logged.rollback.to_step, logged.transitions)

    def _roll_back(self) -> list[str]:
        """The governor: a loss that is not finite takes the run back to the newest checkpoint due."""
        state = self.journal.state
        cause = hopeless(state.rollbacks, self.step, self.window.updates, self.settings.governor)
        if cause is not None:
            self._fail(cause)
        self.keeper.commit(wait=True)
        to_step = self.keeper.due
        transaction = self.journal.transaction()
        removed = tuple(name for name, seed in state.seeds.items() if seed.transitions[0].step > to_step)
        transaction.add(RolledBack(step=self.step, to_step=to_step, cause="the loss is not finite", removed=removed))
        for seed in transaction.state.live_seeds():
            if seed.stage in IN_THE_HOST:
                transaction.add(transition(seed, Stage.CULLED, self.step, "rollback"))
        self.journal.commit(transaction)
        if self.meter is not None:
            self.meter.rolled_back()
        logger.warning("step %d: the loss is not finite; back to the weights of step %d", self.step, to_step)
        self._diverged = False
        culls = [each for each in transaction.contents if isinstance(each, SeedTransitioned)]
        return self._changes.undo(to_step, culls)

    # Checkpoints and ends

    def _checkpoint(self, *reasons: str) -> None:
        replaying = self.replay.covers(self.step)  # then the fold has come further than the step
        sequence, folded = (self._sequence, None) if replaying else (self.journal.state.sequence, self.journal.folded())
        self.keeper.take(snapshot(self.step, sequence, reasons, self.tree(), self.cursor_tree(), folded))

    def _checkpoint_due(self, *reasons: str) -> None:
        """A checkpoint that the governor may go back to; weights that are not finite are never one."""
        if self.subject.finite() or "blending" in reasons:  # a cull goes back to that one
            self.keeper.due = self.step
            self._checkpoint(*reasons)

    def _pause(self, reason: str) -> NoReturn:
        self._checkpoint("pause")
        self.keeper.commit(wait=True)
        self._append(RunPaused(step=self.step, reason=reason))
        self._end("paused")

    def _end(self, status: str) -> NoReturn:
        self.close()
        run_id = self.journal.state.run_id
        resume = f"esper resume {run_id}" if self.journal.state.task else f"esper.resume({run_id!r}, ...)"
        message = f"run {run_id} {status} at step {self.step}"
        message += f"; go on with {resume}" if status == "paused" else ""
        logger.warning("%s", message)
        raise RunEnded(run_id, status, message)

    def _fail(self, cause: str) -> NoReturn:
        self._append(RunFailed(step=self.step, cause=cause))
        self.close()
        raise TrainingFailed(f"run {self.journal.state.run_id} failed at step {self.step}: {cause}")

    def _append(self, content: RunPaused | RunFailed) -> None:
        transaction: Transaction = self.journal.transaction()
        transaction.add(content)
        self.journal.commit(transaction)
