"""Leyline: the contracts. Event classes, checked against ``schemas/*.avsc``, and their Avro codec."""

from __future__ import annotations

from esper.events import assets, runs, signals
from esper.events.envelope import Envelope, Event

RunContent = (
    runs.RunStarted
    | runs.RunResumed
    | runs.RunPaused
    | runs.RunCompleted
    | runs.RunFailed
    | runs.RunCancelled
    | runs.BoundaryReached
    | runs.DecisionMade
    | runs.DecisionRejected
    | runs.CommandAccepted
    | runs.CommandRejected
    | runs.SeedTransitioned
    | runs.CheckpointCommitted
    | runs.CheckpointRetired
    | runs.RolledBack
    | runs.AlertRaised
)
SignalContent = signals.CommandIssued
AssetContent = (
    assets.BlueprintRegistered
    | assets.KernelRequested
    | assets.KernelCompiled
    | assets.KernelRejected
    | assets.KernelEvaluated
)
Content = RunContent | SignalContent | AssetContent

__all__ = ["AssetContent", "Content", "Envelope", "Event", "RunContent", "SignalContent", "assets", "runs", "signals"]
