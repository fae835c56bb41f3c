"""The training itself: one step, and what happens between two."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from esper.errors import ReplayDivergence, RunEnded, TrainingFailed, UsageError
from esper.events.runs import BoundaryReached, RolledBack, RunCompleted, RunPaused, SeedTransitioned, SiteTable
from esper.kasmina import generators
from esper.kasmina.sites import Site, site_table, with_reasons
from esper.settings import Settings
from esper.tamiyo.advice.course import DROPPED, WAITED
from esper.tamiyo.policy.remote import OpenDecisions
from esper.tamiyo.rules import checkpoints, decider
from esper.tamiyo.rules.decider import Wish
from esper.tamiyo.run.state import RunState
from esper.tolaria.answers import Answers
from esper.tolaria.changes import Changes
from esper.tolaria.checkpoint.retention import Retention
from esper.tolaria.checkpoint.store import Loaded, nothing, snapshot
from esper.tolaria.journal.inbox import Inbox
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.replay import Replay
from esper.tolaria.model.cursor import Cursor
from esper.tolaria.model.digest import StateDigest, batch_digest, digest_tree
from esper.tolaria.model.host import load_tensors, names_in_state_dict
from esper.tolaria.model.host_pass import HostPass
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.sole_trainer import SoleTrainer
from esper.tolaria.model.subject import Pulse, Subject
from esper.tolaria.telemetry.cores import waited
from esper.tolaria.telemetry.meter import Meter
from esper.tolaria.telemetry.metrics import Pending, checked

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
        """A step was done with this mean loss, and the optimiser has stepped."""
        self.total += loss
        self.count += 1
        self.last = loss
        self.updates += 1

    def mean(self) -> float:
        """The mean loss of the steps since the last boundary; NaN if there was none."""
        return self.total / self.count if self.count else math.nan


class Trainer:
    """Everything alive of one run in this process. All methods belong to the training thread.

    ``asked`` are the boundaries whose decision is still to come, where the run's policy is elsewhere.
    """

    def __init__(
        self,
        subject: Subject,
        seeds: Seeds,
        answers: Answers,
        journal: Journal,
        inbox: Inbox,
        retention: Retention,
        meter: Meter | None,
        settings: Settings,
        replay: Replay,
        costs: Costs,
        asked: OpenDecisions | None,
        pending: Pending,
    ) -> None:
        self.subject, self.seeds, self.answers = subject, seeds, answers
        self.journal, self.inbox, self.retention, self.meter = journal, inbox, retention, meter
        self.settings, self.replay, self._costs, self._asked = settings, replay, costs, asked
        self.pending = pending
        self.cursor, self.window = Cursor(), Window()
        self.step = 0
        self._handled = 0  # the last step after which rollback and boundary were looked at
        self._seconds = 0.0  # between steps, of which no boundary has told yet
        self._waited = waited()
        self._sequence = 0  # of the last event that the model's state includes, while replaying
        self._diverged = False
        self._changes = Changes(subject, seeds, retention)
        self._pass = HostPass(subject, seeds, settings.boundary)
        self._tabled: tuple[list[Site], SiteTable] | None = None
        self._batch: Any = None
        self._pulse = Pulse(subject.model)
        self.sole = SoleTrainer(subject.optimizer)
        self._best: tuple[int, float] | None = None  # the last value of the metric that the run looks at, and its step
        self._first_generators = generators.capture()  # as they were when the run began

    def tree(self) -> dict[str, Any]:
        """The state that checkpoints keep."""
        window = self.window
        return {
            "model": self.subject.tensors(),
            "optimizer": self.subject.optimizer.state_dict(),
            "seeds": self.seeds.tree(),
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
            "due": self.retention.due,
            "first_generators": self._first_generators,
            "names": names_in_state_dict(self.subject.model),
            "reasons": [site.reason for site in self.seeds.sites] if self._pass.counted else None,
        }

    def load(self, checkpoint: Loaded) -> None:
        """Take up a checkpoint whole."""
        tree = checkpoint.tree
        self.seeds.rebuild(tree["seeds"])
        load_tensors(self.subject.model, tree["model"])
        self.subject.load_optimizer(tree["optimizer"], rates=True)
        self.subject.load_user_state(tree["state"])
        self.subject.load_flags(tree["flags"])
        self.window = Window(*tree["window"])
        self.step = self._handled = self.seeds.step = checkpoint.step
        self._sequence = checkpoint.sequence
        self.retention.due = checkpoint.cursor["due"]
        self._first_generators = checkpoint.cursor["first_generators"]
        if checkpoint.cursor["reasons"] is not None:  # calls were counted in the run's first step, once and for all
            self.seeds.sites = with_reasons(self.seeds.sites, checkpoint.cursor["reasons"])
            self._pass.counted = True
        self.cursor.load(checkpoint.cursor["data"])

    # One step

    def train(self, batch: Any) -> float:
        """Forward, backward, seeds, optimiser. Returns the mean loss; one that is not finite moves nothing."""
        subject, seeds = self.subject, self.seeds
        step = seeds.step = self.step + 1
        self._batch = batch  # now, so that the one before is free when memory is needed
        training = seeds.training()
        before = generators.capture() if training else {}
        subject.optimizer.zero_grad(set_to_none=True)
        measure = decider.boundary_due(step - 1, step, self.settings.boundary.steps) and not self.replay.covers(step)
        value = self._pass.run(batch, step, measure)
        self.step = step
        if not math.isfinite(value):
            self._diverged = True
            self.sole.note()
            return value
        for placed in training:
            seeds.learn_isolated(placed, batch, before)
        self._clip()
        with self.sole.stepping():
            subject.optimizer.step()
        seeds.learn_with_host()
        self.sole.note()
        self.window.add(value)
        return value

    def _clip(self) -> None:
        if self.subject.clip_norm is not None:
            host = (each for group in self.subject.optimizer.param_groups for each in group["params"])
            nn.utils.clip_grad_norm_(host, self.subject.clip_norm)

    def log(self, values: Mapping[str, Any]) -> None:
        """Keep the program's own measurements for the log; raises UsageError, and keeps none, if one is no number."""
        state = self.journal.state
        found = checked(values, self.pending.names)
        if self.cursor.returning:
            return
        self.pending.add(self.step, found)
        name = (state.best or "").rpartition(":")[0]
        if name in found:
            self._best = self.step, found[name]

    # Between two steps

    def between_steps(self, interrupted: bool, ends: bool = False) -> None:
        """Rollback or boundary, checkpoint, Ctrl-C: called when the loop asks for its next batch or epoch. ``ends``
        says that the checkpoint of an epoch's end follows."""
        began = time.perf_counter()
        self._between(interrupted, ends)
        self._seconds += time.perf_counter() - began

    def _between(self, interrupted: bool, ends: bool) -> None:
        self.journal.check()
        self.retention.commit()
        if self.step > self._handled:
            before, self._handled = self._handled, self.step
            contents, wish = self._happened(before)
            if contents:
                self._changes.apply(contents)
            every = self.settings.checkpoint.steps
            why = checkpoints.reasons(contents, self.step, self.retention.due, every)
            self._checkpoint_due(*why, *(() if ends else self._if_best()))
            if wish == "stop":
                self._end("cancelled")
            if wish == "pause":
                self._pause(decider.PAUSED_BY_COMMAND)
        if interrupted:
            self._pause(decider.INTERRUPTED)

    def open(self, loader: Iterable[Any], interrupted: bool) -> Iterator[Any]:
        """The batches of ``loader`` that are still to be used in this epoch; raises DataMismatch, Unsupported."""
        self.cursor.enter_epochs()  # a loop may do without run.epochs
        if not self.cursor.begins_anew:
            return self.cursor.open(loader)
        self.between_steps(interrupted)
        iterator = self.cursor.open(loader)
        self._checkpoint_due(checkpoints.EPOCH)  # nothing else would tell a resume that an epoch was left early
        self.retention.commit(wait=True)
        return iterator

    def end_epoch(self, interrupted: bool) -> None:
        """The loop asks for the next epoch."""
        self.between_steps(interrupted, ends=True)
        self.cursor.next_epoch()
        self._checkpoint_due(checkpoints.EPOCH, *self._if_best())

    def finish(self, test: Callable[[nn.Module], Mapping[str, float]] | None, interrupted: bool) -> None:
        """The loop is over: commit everything and complete the run."""
        self.between_steps(interrupted)
        if self.step < self.replay.last:
            raise ReplayDivergence(
                f"the loop ended at step {self.step}, but the run has logged steps up to {self.replay.last}; "
                "resume it with a loop that is at least as long"
            )
        self.retention.commit(wait=True)
        self._checkpoint(checkpoints.END)  # before the test, which may leave a trace in the model
        self.retention.commit(wait=True)
        measured = _numbers(test(self.subject.model)) if test else {}
        self._checkpoint_due(*self._if_best())
        self._tell_metrics()
        self.retention.commit(wait=True)
        end = RunCompleted(
            step=self.step,
            final_loss=self._last_loss(),
            test=measured,
            parameters_digest=digest_tree(self.subject.tensors()).digest,
            seeds={},
            measured={DROPPED: float(self.meter.dropped)} if self.meter is not None and self.meter.dropped else None,
        )
        transaction = self.journal.transaction()
        self.answers.carry_out(transaction, decider.completion(transaction.state, end))
        self.journal.commit(transaction)
        self.journal.read_back()
        self.close()

    def _last_loss(self) -> float:
        """The mean loss of the steps since the last boundary, or of those before it where none has followed."""
        known = self.journal.state.loss
        return self.window.mean() if self.window.count or known is None else known

    def close(self) -> None:
        """Stop the threads; what is queued is committed first, if the log still answers."""
        self.inbox.close()
        self.journal.close()
        self.retention.close()
        if self.meter is not None:
            self.meter.close()

    def _happened(self, before: int) -> tuple[Sequence[object], Wish | None]:
        """The events of the step that was just done, new or on the log already, and what a command wants of the run.
        ``before`` was the last step after which this was asked."""
        due = decider.boundary_due(before, self.step, self.settings.boundary.steps)
        if self.replay.covers(self.step):
            return self._repeated(due), None
        if self._diverged:
            return self._roll_back(), None
        return self._reach_boundary() if due else ((), None)

    def _reach_boundary(self) -> tuple[Sequence[object], Wish | None]:
        began = time.perf_counter()
        self._pulse.check()
        self._tell_metrics()
        if self.seeds.in_the_host():
            self.retention.commit(wait=True)  # a cull goes back to one of them
        transaction = self.journal.transaction()
        arrival = self._arrival(transaction.state, began)
        wish = self.answers.carry_out(transaction, decider.boundary(transaction.state, arrival, self._asked))
        if wish or any(isinstance(content, SeedTransitioned) for content in transaction.contents):
            self.journal.commit(transaction)
        else:
            self.journal.submit(transaction)
        self.window.total, self.window.count = 0.0, 0
        return transaction.contents, wish

    def _arrival(self, state: RunState, began: float) -> BoundaryReached:
        digest = self.digest()
        table = self._table()
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
            trials=(),
            failed=self.seeds.failed(),
            measured={"seconds": before + now} | self._without_core(),
        )

    def _without_core(self) -> dict[str, float]:
        before, self._waited = self._waited, waited()
        return {} if before is None or self._waited is None else {WAITED: self._waited - before}

    def _table(self) -> SiteTable:
        sites = self.seeds.sites
        if self._tabled is None or self._tabled[0] is not sites:  # the seeds's list is replaced, never changed
            self._tabled = sites, site_table(sites, self._costs(sites))
        return self._tabled[1]

    def _repeated(self, due: bool) -> Sequence[object]:
        """The events of a step that the log already holds, compared with the state."""
        logged = self.replay.at(self.step)
        rolled_back = logged is not None and any(isinstance(each, RolledBack) for each in logged.contents)
        if (self._diverged and not rolled_back) or (due and logged is None):
            raise ReplayDivergence(
                f"step {self.step} run again calls for a boundary or a rollback that the log does not hold; "
                "resume with the code, arguments and machine that wrote it"
            )
        if logged is None:
            return ()
        self._pulse.check()
        self._sequence = logged.sequence
        if logged.boundary is not None:
            digest = self.digest()
            self.replay.compare(logged.boundary, digest, batch_digest(self._batch), self.cursor.first_data)
            self.window.total, self.window.count = 0.0, 0
        self._diverged = False
        return logged.contents

    def _roll_back(self) -> Sequence[object]:
        """The governor: a loss that is not finite takes the run back to the newest checkpoint due, or ends it."""
        state, updated = self.journal.state, self.window.updates > 0
        if decider.hopeless(state.rollbacks, self.step, updated, self.settings.governor) is None:
            self.retention.commit(wait=True)
        self._tell_metrics()
        transaction = self.journal.transaction()
        cause = self.answers.carry_out(transaction, decider.rollback(transaction.state, self.step, updated))
        self.journal.commit(transaction)
        if cause is not None:
            self.close()
            raise TrainingFailed(f"run {self.journal.state.run_id} failed at step {self.step}: {cause}")
        if self.meter is not None:
            self.meter.rolled_back()
        (back,) = [each for each in transaction.contents if isinstance(each, RolledBack)]
        logger.warning("step %d: the loss is not finite; back to the weights of step %d", self.step, back.to_step)
        self._diverged = False
        return transaction.contents

    # Checkpoints and ends

    def _tell_metrics(self) -> None:
        """Hand what the program has logged to the journal: no checkpoint comes before what was logged until then."""
        for content in self.pending.take():
            transaction = self.journal.transaction()
            transaction.add(content)
            self.journal.submit(transaction)

    def _if_best(self) -> tuple[str, ...]:
        """The reason for a checkpoint of the best value of the run's metric, if it was logged after this step."""
        state, best = self.journal.state, self._best
        if state.best is None or best is None or best[0] != self.step:
            return ()
        known = state.metrics.get(state.best.rpartition(":")[0])
        return (checkpoints.BEST,) if checkpoints.is_best_yet(state.best, known, *best) else ()

    def _checkpoint(self, *reasons: str) -> None:
        self._tell_metrics()
        replaying = self.replay.covers(self.step)  # then the fold has come further than the step
        sequence, folded = (
            (self._sequence, nothing) if replaying else (self.journal.state.sequence, self.journal.folded())
        )
        self.retention.take(snapshot(self.step, sequence, reasons, self.tree(), self.cursor_tree(), folded))

    def _checkpoint_due(self, *reasons: str) -> None:
        """A checkpoint that the governor may go back to, unless a metric's best value is all that it is for."""
        if reasons and checkpoints.is_taken(reasons, self.subject.finite()):
            if checkpoints.was_due(",".join(reasons)):
                self.retention.due = self.step
            self._checkpoint(*reasons)

    def _pause(self, reason: str) -> NoReturn:
        self._checkpoint(checkpoints.PAUSE)
        self.retention.commit(wait=True)
        transaction = self.journal.transaction()
        transaction.add(RunPaused(step=self.step, reason=reason))
        self.journal.commit(transaction)
        self._end("paused")

    def _end(self, status: str) -> NoReturn:
        self.journal.read_back()
        self.close()
        run_id = self.journal.state.run_id
        resume = f"esper resume {run_id}" if self.journal.state.task else f"esper.resume({run_id!r}, ...)"
        message = f"run {run_id} {status} at step {self.step}"
        message += f"; go on with {resume}" if status == "paused" else ""
        logger.warning("%s", message)
        raise RunEnded(run_id, status, message)


def _numbers(measured: Mapping[str, float]) -> dict[str, float]:
    """What a test has measured, as a log takes it. Raises UsageError for anything but numbers by name."""
    try:
        return {name.encode().decode(): float(value) for name, value in measured.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"finish(test=...) gave {str(measured)[:200]} ({error}); return numbers by name, such as "
            '{"accuracy": 0.91}, then resume the run to finish it'
        ) from error
