"""Answers what the rules ask by measuring on the model, which is left as it was."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from esper.artifacts.port import ArtifactStore
from esper.events import RunContent
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated, KernelRejected, KernelRequested
from esper.events.runs import DecisionMade
from esper.events.signals import CommandIssued
from esper.kasmina.gate import GateData, evaluate
from esper.kasmina.seed.isolation import gate_losses
from esper.tamiyo.policy.policies import newest
from esper.tamiyo.rules import script
from esper.tamiyo.rules.script import Put, Question, Script, Step, Tell
from esper.tamiyo.run import about
from esper.tezzeret.birth import compile_kernel
from esper.tolaria.journal.inbox import Inbox, PendingCommand
from esper.tolaria.journal.journal import Transaction
from esper.tolaria.journal.proposals import Proposals
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.subject import Subject

T = TypeVar("T")


class Answers:
    """Carries out the scripts of one run. ``proposals`` are None where the run decides by itself."""

    def __init__(
        self,
        subject: Subject,
        seeds: Seeds,
        gate: GateData | None,
        store: ArtifactStore,
        blueprints: dict[str, BlueprintRegistered],
        inbox: Inbox,
        proposals: Proposals | None,
    ) -> None:
        self._subject, self._seeds, self._gate, self._store = subject, seeds, gate, store
        self._blueprints, self._inbox, self._proposals = blueprints, inbox, proposals
        self._commands: deque[PendingCommand] = deque()
        self._asked: CommandIssued | None = None  # by the command that is answered now

    def carry_out(self, tx: Transaction, rules: Script[T]) -> T:
        """Add to ``tx`` what ``rules`` put, and answer what they ask; returns what they return."""
        answer: Any = None
        while True:
            began = time.perf_counter()
            try:
                step = rules.send(answer)
            except StopIteration as end:
                if self._proposals is not None:
                    tx.then = self._proposals.told(tx.state.step, tx.contents)
                result: T = end.value
                return result
            answer = self._carried_out(tx, step, time.perf_counter() - began)

    def _carried_out(self, tx: Transaction, step: Step, seconds: float) -> Any:
        match step:
            case Put():
                tx.add(self._measured(step.content, seconds), step.causes)
                return tx.state
            case script.KernelWanted() | script.KernelJudged():
                tx.add_asset(self._asset(step))
                return None
            case script.Compile():
                compiled = self._compiled(step)
                tx.add_asset(compiled)
                if isinstance(compiled, KernelCompiled):
                    return script.Compiled(compiled.kernel)
                return script.NotCompiled(compiled.reason)
            case script.NextCommand():
                return self._command(tx.state.run_id)
            case script.Description():
                return about.obeyed(tx.state, self._asked)
            case _:
                return self._answer(step)

    def _measured(self, content: RunContent, seconds: float) -> RunContent:
        """With what the clock says: how long the policy took to decide, or how long a proposal was waited for."""
        if not isinstance(content, DecisionMade):
            return content
        measured = {"seconds": seconds} if self._proposals is None else self._proposals.measured()
        return replace(content, measured=measured)

    def _answer(self, question: Question) -> Any:
        match question:
            case script.Trial(seed, fold):
                without, within = self._losses(seed, fold)
                gradient_norm = self._seeds.placed[seed].gradient_norm
                return script.Gains(*moments(without - within), gradient_norm, float(without.mean()))
            case script.BirthGradient(seed, fold):
                return self._seeds.birth_gradient(seed, self._fold(fold)[0])
            case script.Verdict(seed, fold):
                without, within = self._losses(seed, fold)
                return script.Gains(*moments(without - within))
            case script.Audit(seed, fold):
                return self._change(seed, fold)
            case script.Quantile(z):
                return z
            case script.PolicyNamed(name):
                return newest(name)
            case script.NextProposal(about):
                return self._proposals.about(about) if self._proposals is not None else None
            case script.LeftProposal(to_come):
                return self._proposals.left(to_come) if self._proposals is not None else None
        raise TypeError(f"no answer to {question}")

    def _command(self, run_id: str) -> script.Command | None:
        if not self._commands:
            self._commands.extend(self._inbox.take())
        if not self._commands:
            return None
        command = self._commands.popleft()
        asked = self._asked = command.content
        return script.Command(command.id, asked.command, asked.seed, asked.issuer, command.forged(run_id))

    def _compiled(self, wanted: script.Compile) -> KernelCompiled | KernelRejected:
        site = self._seeds.site(wanted.site)
        request = site.request(wanted.blueprint, wanted.random)
        content, _ = compile_kernel(self._store, self._blueprints[wanted.blueprint], request, site.anchor.device)
        return content

    def _asset(self, told: Tell) -> KernelRequested | KernelEvaluated:
        if isinstance(told, script.KernelWanted):
            return self._seeds.site(told.site).request(told.blueprint, told.random)
        site = self._seeds.site(told.seed.site)
        return KernelEvaluated(
            blueprint=told.seed.blueprint,
            kernel=told.seed.kernel,
            kind=site.kind,
            dims=site.dims,
            gate=told.gate,
            evidence=told.evidence,
        )

    def _losses(self, name: str, fold: int) -> tuple[Tensor, Tensor]:
        seed = self._seeds.placed[name].seed
        return gate_losses(self._subject.model, self._subject.loss, self._fold(fold), seed.span, seed.kernel)

    def _change(self, name: str, fold: int) -> script.Change | None:
        reference = self._seeds.placed[name].reference
        if reference is None:
            return None
        now = evaluate(self._subject.model, self._subject.loss, self._fold(fold))
        with self._seeds.switched_off(name):
            without = evaluate(self._subject.model, self._subject.loss, self._fold(fold))
        return script.Change(*moments(reference - now), float((without - now).mean()))

    def _fold(self, fold: int) -> Sequence[Any]:
        return self._gate.fold(fold) if self._gate is not None else []


def moments(gains: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of per-example gains, shape [n]."""
    return float(gains.mean()), float(torch.std(gains)) if gains.numel() > 1 else math.nan
