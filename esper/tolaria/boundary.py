"""What a boundary decides: commands answered, gates judged, kernels born, the policy asked. Each adds its events to
the boundary's transaction; nothing is applied to the model here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.artifacts.port import ArtifactStore
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated
from esper.events.ids import kernel_seed
from esper.events.runs import (
    AlertRaised,
    CommandAccepted,
    CommandRejected,
    DecisionRejected,
    Evidence,
    SeedTransitioned,
    Trial,
)
from esper.kasmina import verdict
from esper.kasmina.gate import GateData, evaluate
from esper.kasmina.isolation import gate_gain
from esper.kasmina.stages import IN_THE_HOST, Stage
from esper.nissa.anomaly import alarm
from esper.settings import Settings
from esper.tamiyo.state import RunState, SeedState
from esper.tezzeret.birth import compile_kernel
from esper.tolaria.decisions import Decider
from esper.tolaria.garden import Garden
from esper.tolaria.inbox import Command
from esper.tolaria.journal import Transaction
from esper.tolaria.subject import Subject

FAILED = (Stage.CULLED, "finite", Evidence(passed=False, reason="the seed's own loss or gradient was not finite"))


class Boundary:
    """The judgements of one run's boundaries. Everything it evaluates leaves no trace in the host."""

    def __init__(
        self,
        subject: Subject,
        garden: Garden,
        gate: GateData | None,
        store: ArtifactStore,
        blueprints: dict[str, BlueprintRegistered],
        decider: Decider,
        settings: Settings,
    ) -> None:
        self._subject, self._garden, self._gate, self._store = subject, garden, gate, store
        self._blueprints, self._decider, self._settings = blueprints, decider, settings

    def reached(self, state: RunState) -> None:
        """BoundaryReached was folded into ``state``, and nothing after it."""
        self._decider.reached(state)

    def trials(self, state: RunState) -> tuple[Trial, ...]:
        """An isolated measurement of each seed in TRAINING, on a fold that is not the next verdict's."""
        found = []
        for plant in self._garden.training():
            name = plant.seed.name
            history = state.seeds[name]
            folds = self._settings.gate.folds
            fold = (state.gate_uses + 1 + len(history.trials) % (folds - 1)) % folds
            n, mean, s = moments(self._gain(name, fold))
            found.append(Trial(seed=name, fold=fold, n=n, mean=mean, s=s, gradient_norm=plant.gradient_norm))
        return tuple(found)

    def answer(self, tx: Transaction, commands: Iterable[Command], step: int) -> str | None:
        """Answer each command once; returns ``pause`` or ``stop`` if one of them asks for that."""
        wish: str | None = None
        for command in commands:
            if str(command.id) in tx.state.answered:
                continue
            asked = command.content
            reason = command.forged(tx.state.run_id) or _refusal(tx.state, asked.command, asked.seed)
            if reason is not None:
                tx.add(
                    CommandRejected(
                        step=step,
                        command=command.id,
                        kind=asked.command,
                        seed=asked.seed,
                        issuer=asked.issuer,
                        reason=reason,
                    ),
                    causes=(command.id,),
                )
                continue
            tx.add(
                CommandAccepted(
                    step=step, command=command.id, kind=asked.command, seed=asked.seed, issuer=asked.issuer
                ),
                causes=(command.id,),
            )
            if asked.command == "cull" and asked.seed is not None:
                tx.add(transition(tx.state.seeds[asked.seed], Stage.CULLED, step, "command"), causes=(command.id,))
            elif wish != "stop":
                wish = asked.command
        return wish

    def judge(self, tx: Transaction, step: int) -> None:
        """Ask the gate of each live seed whose time has come."""
        warning = alarm(tx.state.losses, self._settings.governor.spike)
        if warning is not None:
            tx.add(AlertRaised(step=step, kind="loss", detail=warning, value=tx.state.loss))
        for seed in sorted(tx.state.live_seeds(), key=lambda each: each.stage not in IN_THE_HOST):
            if seed.stage is Stage.TRAINING and _host_goes_back(tx.contents):
                continue  # its gain would be measured on a host that is gone after this boundary
            verdicts = {
                Stage.GERMINATED: self._birth,
                Stage.TRAINING: self._verdict,
                Stage.BLENDING: self._blend,
                Stage.HOLDING: self._audit,
            }
            failed = self._garden.plants[seed.name].seed.failed
            judged: tuple[Stage, str, Evidence] | None
            if failed:
                judged = FAILED
            elif warning is not None and seed.stage in IN_THE_HOST:
                judged = (Stage.CULLED, "governor", Evidence(passed=False, reason=warning))
            else:
                judged = verdicts[seed.stage](tx.state, seed, step)
            if judged is not None:
                to, gate, evidence = judged
                tx.add(transition(seed, to, step, "gate", gate, evidence))
                if gate in ("verdict", "audit"):
                    tx.add_asset(self._evaluation(seed, gate, evidence))

    def germinate(self, tx: Transaction, step: int) -> None:
        """Carry out the germination that was decided at the boundary before."""
        pending = tx.state.pending
        if pending is None or pending.site is None or pending.blueprint is None or pending.seed is None:
            return
        site = self._garden.site(pending.site)
        request = site.request(pending.blueprint, kernel_seed(tx.state.seed, pending.seed))
        content, _ = compile_kernel(self._store, self._blueprints[pending.blueprint], request, site.anchor.device)
        tx.add_asset(content)
        if isinstance(content, KernelCompiled):
            tx.add(
                SeedTransitioned(
                    site=pending.site,
                    seed=pending.seed,
                    blueprint=pending.blueprint,
                    kernel=content.kernel,
                    from_stage=Stage.DORMANT,
                    to_stage=Stage.GERMINATED,
                    step=step,
                    cause="decision",
                    gate=None,
                    evidence=None,
                )
            )
        else:
            tx.add(
                DecisionRejected(
                    decision=pending.decision, step=step, reason="kernel", detail=content.reason, site=pending.site
                )
            )

    def decide(self, tx: Transaction, step: int) -> None:
        """Say what to do next, and ask for the kernel that it takes."""
        made = self._decider.decide(tx, step)
        if made is not None and made.action == "germinate" and made.site and made.blueprint and made.seed:
            site = self._garden.site(made.site)
            seed = kernel_seed(tx.state.seed, made.seed)
            tx.add_asset(site.request(made.blueprint, seed))

    def _birth(self, state: RunState, seed: SeedState, step: int) -> tuple[Stage, str, Evidence]:
        other = (state.gate_uses + 1) % self._settings.gate.folds  # the next fold is the next verdict's
        norm = self._garden.birth_gradient(seed.name, self._fold(other)[0])
        good = norm is not None and math.isfinite(norm) and norm > 0
        reason = (
            "the kernel loads, its loss is finite and gradient flows"
            if good
            else "no finite gradient reaches the kernel"
        )
        evidence = Evidence(passed=good, reason=reason, gradient_norm=norm)
        return (Stage.TRAINING if good else Stage.CULLED), "birth", evidence

    def _verdict(self, state: RunState, seed: SeedState, step: int) -> tuple[Stage, str, Evidence] | None:
        if step - seed.since < self._settings.training.steps or len(seed.trials) < self._settings.verdict.measurements:
            return None
        if any(other.stage in IN_THE_HOST for other in state.seeds.values()):
            return None  # one seed blends at a time: this one trains on until there is room
        folds = self._settings.gate.folds
        fold = state.gate_uses % folds
        n, mean, s = moments(self._gain(seed.name, fold))
        evidence = verdict.judge(
            mean,
            s,
            n,
            fold,
            [trial for _, trial in seed.trials],
            state.verdicts + 1,
            self._settings.verdict,
            self._garden.parameters(seed.name),
            folds,
        )
        return (Stage.BLENDING if evidence.passed else Stage.CULLED), "verdict", evidence

    def _blend(self, state: RunState, seed: SeedState, step: int) -> tuple[Stage, str, Evidence] | None:
        if step - seed.since < self._settings.blending.steps:
            return None
        return Stage.HOLDING, "blend", Evidence(passed=True, reason="alpha is 1 and the governor raised no alarm")

    def _audit(self, state: RunState, seed: SeedState, step: int) -> tuple[Stage, str, Evidence] | None:
        if step - seed.since < self._settings.blending.holding_steps:
            return None
        began = seed.entered(Stage.BLENDING)
        reference = self._garden.plants[seed.name].reference
        if began is None or began.evidence is None or began.evidence.audit_fold is None or reference is None:
            evidence = Evidence(passed=False, reason="the losses from when blending began are missing")
            return Stage.CULLED, "audit", evidence
        fold = began.evidence.audit_fold
        now = evaluate(self._subject.model, self._subject.loss, self._fold(fold))
        n, mean, s = moments(reference - now)
        with self._garden.switched_off(seed.name):
            without = evaluate(self._subject.model, self._subject.loss, self._fold(fold))
        ablation = float((without - now).mean())
        evidence = verdict.audit(mean, s, n, fold, self._settings.verdict, ablation)
        return (Stage.FOSSILISED if evidence.passed else Stage.CULLED), "audit", evidence

    def _gain(self, name: str, fold: int) -> Tensor:
        seed = self._garden.plants[name].seed
        return gate_gain(self._subject.model, self._subject.loss, self._fold(fold), seed.span, seed.kernel)

    def _fold(self, fold: int) -> Sequence[Any]:
        return self._gate.fold(fold) if self._gate is not None else []

    def _evaluation(self, seed: SeedState, gate: str, evidence: Evidence) -> KernelEvaluated:
        site = self._garden.site(seed.site)
        return KernelEvaluated(
            blueprint=seed.blueprint, kernel=seed.kernel, kind=site.kind, dims=site.dims, gate=gate, evidence=evidence
        )


def transition(
    seed: SeedState, to: Stage, step: int, cause: str, gate: str | None = None, evidence: Evidence | None = None
) -> SeedTransitioned:
    """The event that moves ``seed`` to another stage."""
    return SeedTransitioned(
        site=seed.site,
        seed=seed.name,
        blueprint=seed.blueprint,
        kernel=seed.kernel,
        from_stage=seed.stage,
        to_stage=to,
        step=step,
        cause=cause,
        gate=gate,
        evidence=evidence,
    )


def moments(gains: Tensor) -> tuple[int, float, float]:
    """Number, mean and standard deviation (n - 1) of per-example gains, shape [n]."""
    n = gains.numel()
    return n, float(gains.mean()), float(torch.std(gains)) if n > 1 else math.nan


def _host_goes_back(contents: Sequence[object]) -> bool:
    return any(
        isinstance(each, SeedTransitioned) and each.to_stage == Stage.CULLED and each.from_stage in IN_THE_HOST
        for each in contents
    )


def _refusal(state: RunState, command: str, seed: str | None) -> str | None:
    if command not in ("pause", "stop", "cull"):
        return f"no such command: {command}"
    if command != "cull":
        return None
    if seed not in state.seeds:
        return f"there is no seed {seed}"
    if not state.seeds[seed].live:
        return f"seed {seed} is {state.seeds[seed].stage} already"
    return None
