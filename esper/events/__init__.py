"""Leyline: the contracts. Event classes, checked against ``schemas/*.avsc``, and their Avro codec."""

from __future__ import annotations

from esper.events import assets, deadletter, exclusions, runs, signals, telemetry
from esper.events.envelope import Envelope, Event

RunContent = (
    runs.RunStarted
    | runs.RunResumed
    | runs.RunDescribed
    | runs.MetricsLogged
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
SignalContent = signals.CommandIssued | signals.DecisionProposed | signals.AlertRaised | signals.AlertResolved
AssetContent = (
    assets.BlueprintRegistered
    | assets.KernelRequested
    | assets.KernelCompiled
    | assets.KernelRejected
    | assets.KernelEvaluated
)
DeadLetterContent = deadletter.DeadLetter | deadletter.DeadLetterResolved
TelemetryContent = telemetry.StepsMeasured
ExclusionContent = exclusions.RecordExcluded
Content = RunContent | SignalContent | AssetContent | DeadLetterContent | ExclusionContent | TelemetryContent

__all__ = [
    "AssetContent",
    "Content",
    "DeadLetterContent",
    "Envelope",
    "Event",
    "ExclusionContent",
    "RunContent",
    "SignalContent",
    "TelemetryContent",
    "assets",
    "deadletter",
    "exclusions",
    "runs",
    "signals",
    "telemetry",
]
