"""What no rule decides: the fields of events that say what happened to a run, not what follows from it.

``verify`` takes them as they are; every other field it computes again. A dotted name is a field of a part.
"""

from __future__ import annotations

from esper.events import runs

INPUTS: dict[type, dict[str, str]] = {
    runs.RunStarted: dict.fromkeys(
        (
            "task",
            "seed",
            "settings",
            "model",
            "optimizer",
            "sites",
            "gate",
            "data",
            "environment",
            "parameters_digest",
            "clip_norm",
            "state_digests",
            "params",
            "name",
            "tags",
            "notes",
            "best",
        ),
        "how the run was begun",
    )
    | {"rules": "fixed when the run began; a number that this version does not know is refused"},
    runs.RunResumed: {
        "inexact": "what the person who resumed it let pass",
        "environment": "the machine",
        "notes": "what was found at the resume",
        "reopened": "whether a writer was lost",
    },
    runs.RunDescribed: dict.fromkeys(("name", "tags", "notes"), "what people call it"),
    runs.MetricsLogged: dict.fromkeys(("names", "metrics", "steps", "values"), "measured by the program"),
    runs.RunPaused: {"step": "when Ctrl-C came", "reason": "Ctrl-C, unless a command asked for the pause"},
    runs.RunCompleted: {
        "step": "how long the loop was",
        "final_loss": "a loss",
        "test": "measured by the loop",
        "parameters_digest": "a digest",
    },
    runs.RunFailed: {"step": "when a loss was not finite"},
    runs.RolledBack: {"step": "when a loss was not finite"},
    runs.BoundaryReached: {
        "step": "which steps had a boundary: a batch may take several steps",
        "epoch": "data",
        "batch": "data",
        "loss": "a loss",
        "learning_rate": "the program's schedule",
        "digest": "a digest",
        "tensors": "digests",
        "data": "a digest of data",
        "first_data": "a digest of data",
        "sites": "the model's layers, and how often the first step called each",
        "health": "measured on the model",
        "failed": "which losses and gradients were not finite",
        "trials.mean": "losses",
        "trials.s": "losses",
        "trials.loss": "losses",
        "trials.gradient_norm": "measured on the model",
    },
    runs.CommandAccepted: {
        "command": "arrival",
        "kind": "arrival",
        "seed": "arrival",
        "issuer": "arrival",
    },
    runs.CommandRejected: {
        "command": "arrival",
        "kind": "arrival",
        "seed": "arrival",
        "issuer": "arrival",
    },
    runs.SeedTransitioned: {
        "evidence.mean": "losses",
        "evidence.s": "losses",
        "evidence.ablation": "losses",
    },
    runs.CheckpointCommitted: {
        "manifest": "a digest",
        "size": "what was new on the disk",
        "sequence": "the disk's speed: how far the log had come",
        "fold": "a digest",
    },
}
"""By event, why a field is an input. ``measured``, what a clock gave, is one of every event."""

SOMETIMES: dict[type, dict[str, str]] = {
    runs.RunResumed: {"checkpoint": "which checkpoints were whole"},
    runs.DecisionMade: {"issuer": "who made the proposal that is taken"},
    runs.DecisionRejected: {
        "detail": "why a kernel could not be compiled, and what speaks against a proposal that is not on the log",
        "site": "of a proposal",
        "issuer": "of a proposal",
    },
    runs.CommandRejected: {"reason": "that it was forged"},
    runs.SeedTransitioned: {
        "kernel": "what was compiled for a birth",
        "evidence.gradient_norm": "measured on the model at the gate birth",
    },
    runs.CheckpointCommitted: {
        "step": "when an epoch ended, when Ctrl-C came, and how many steps a batch takes",
        "reason": "that an epoch ended, or Ctrl-C came",
    },
    runs.CheckpointRetired: {"step": "the disk's speed: when it goes", "manifest": "when it goes"},
}
"""By event, fields that are an input in some events and follow from the run in others. ``verify`` checks them all: what
answered the rules is in the event, so that an input agrees with itself."""
