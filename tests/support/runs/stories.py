"""Runs told event by event onto a log, with the clock's numbers chosen, for questions about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from esper.events import assets, runs
from esper.events.telemetry import StepsMeasured
from esper.log.port import Log
from esper.log.records import asset_record, run_record, telemetry_record
from tests.support.runs.histories import ENVIRONMENT, table

START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""When every story begins; recent, since old measurements are deleted."""


class Story:
    """Tells one run to ``log``: each call appends one event, ``at`` so many seconds after START."""

    def __init__(self, log: Log, run_id: str, *sites: str, at: float = 0) -> None:
        self.run_id, self._log = run_id, log
        self._writer, self._sequence = log.open_writer(run_id), 0
        self._stages: dict[str, str] = {}
        self._blueprints: dict[str, str] = {}
        self._batches = 0
        description = runs.ModelDescription(names=("w",), shapes=((8, 8),), dtypes=("float32",))
        self.tell(
            at,
            runs.RunStarted(
                task=None,
                seed=0,
                settings="{}",
                model=description,
                optimizer="SGD",
                sites=table(*sites),
                gate=None,
                data=(),
                environment=ENVIRONMENT,
                parameters_digest="00",
            ),
        )

    def tell(self, at: float, content: Any) -> None:
        writer = self._writer
        self._sequence += 1
        time = START + timedelta(seconds=at)
        writer.append(
            [run_record(self.run_id, content, epoch=writer.epoch, sequence=self._sequence, writer="test", time=time)]
        )

    def boundary(self, step: int, *, at: float | None = None, loss: float = 1.0, seconds: float | None = 0.5) -> None:
        """At ``step`` seconds, unless it says otherwise."""
        self.tell(
            step if at is None else at,
            runs.BoundaryReached(
                step=step,
                epoch=0,
                batch=step,
                loss=loss,
                learning_rate=0.1,
                digest=f"d{step}",
                tensors=b"",
                data="",
                first_data="",
                sites=None,
                health=None,
                trials=(),
                measured=_measured(seconds),
            ),
        )

    def decide(
        self,
        step: int,
        action: str = "wait",
        site: str | None = None,
        blueprint: str | None = None,
        *,
        measured: Mapping[str, float] | None = None,
        issuer: str | None = None,
    ) -> None:
        self.tell(
            step,
            runs.DecisionMade(
                decision=f"{step}/1",
                step=step,
                policy="heuristic",
                version="1",
                observation="",
                action=action,
                site=site,
                blueprint=blueprint,
                seed=None,
                propensity=1.0,
                alternatives=(),
                reason="",
                issuer=issuer,
                measured=None if measured is None else dict(measured),
            ),
        )

    def refuse(self, decided: int, step: int) -> None:
        """The kernel that was decided at step ``decided`` could not be compiled."""
        self.tell(
            step,
            runs.DecisionRejected(decision=f"{decided}/1", step=step, reason="kernel", detail="too large", site=None),
        )

    def birth(self, step: int, seed: str, blueprint: str, *, parameters: int, seconds: float | None) -> None:
        """A seed germinates; compiling its kernel took ``seconds``."""
        kernel = f"{self.run_id}/{seed}"
        compiled = assets.KernelCompiled(
            blueprint=blueprint,
            kernel=kernel,
            kind="Linear",
            dims=(8, 8),
            seed=sum(kernel.encode()),
            parameters=parameters,
            size=10,
            measured=_measured(seconds),
        )
        self._writer.append([asset_record(compiled, writer="test", time=START + timedelta(seconds=step))])
        self._blueprints[seed] = blueprint
        self.move(step, seed, "GERMINATED", cause="decision")

    def move(self, step: int, seed: str, stage: str, *, cause: str = "gate", back_in: str | None = None) -> None:
        """A seed goes to ``stage``, from where it was, or from ``back_in`` after a rollback."""
        self.tell(
            step,
            runs.SeedTransitioned(
                site=seed.partition("#")[0],
                seed=seed,
                blueprint=self._blueprints[seed],
                kernel=f"{self.run_id}/{seed}",
                from_stage=back_in or self._stages.get(seed, "DORMANT"),
                to_stage=stage,
                step=step,
                cause=cause,
                gate=None,
                evidence=None,
            ),
        )
        self._stages[seed] = stage

    def roll_back(self, step: int, to_step: int, *removed: str, at: float | None = None) -> None:
        back = runs.RolledBack(step=step, to_step=to_step, cause="the loss is not finite", removed=removed)
        self.tell(step if at is None else at, back)

    def resume(self, at: float, checkpoint: int, *, seconds: float | None = None, reopened: bool = False) -> None:
        """Another writer goes on from the checkpoint of that step."""
        self._writer = self._log.open_writer(self.run_id)
        self.tell(
            at,
            runs.RunResumed(
                checkpoint=checkpoint,
                inexact=False,
                environment=ENVIRONMENT,
                notes=(),
                reopened=reopened,
                measured=_measured(seconds),
            ),
        )

    def measure(self, attempt: int, metric: str, values: Mapping[int, float], site: str = "") -> None:
        """A batch of telemetry: a metric's values by step."""
        self._batches += 1
        rows = len(values)
        times: Iterable[datetime] = (START + timedelta(seconds=step) for step in values)
        content = StepsMeasured(
            attempt=attempt,
            dropped=0,
            metrics=(metric,),
            sites=(site,) if site else (),
            steps=tuple(values),
            epochs=(0,) * rows,
            times=tuple(int(time.timestamp() * 1_000_000) for time in times),
            series_metric=(0,),
            series_site=(0 if site else -1,),
            series_length=(rows,),
            at=tuple(range(rows)),
            value=tuple(values.values()),
        )
        time = START + timedelta(seconds=max(values, default=0))
        self._log.signal(
            telemetry_record(self.run_id, content, epoch=self._writer.epoch, number=self._batches, time=time)
        )


def _measured(seconds: float | None) -> dict[str, float] | None:
    return None if seconds is None else {"seconds": seconds}
