"""Rows as ``esper.nissa.report.gather`` gives them, made by hand: a run with whatever a test wants in it."""

from __future__ import annotations

import json
from typing import Any

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"quoted' & <b>",
    "line\u2028and\u2029paragraph",
    "{{ 7 * 7 }}{% raw %}",
)
"""Names that would do harm if they were not escaped."""
_NONE = (
    *("end", "moves", "gates", "resumes", "rollbacks", "kernels", "decisions"),
    *("boundaries", "loss", "rate", "norms"),
)


def empty(steps: int = 0) -> dict[str, list[dict[str, Any]]]:
    """A run that has only begun: no boundary, no seed, no telemetry."""
    time = "2026-01-01 00:00:00.000000"
    return {
        "extent": [{"events": 2, "first": time, "last": "2026-01-01 00:01:00.000000", "steps": steps}],
        "run": [
            {
                "time": time,
                "task": "digits",
                "seed": 0,
                "parameters": 1000,
                "sites": 2,
                "optimizer": "SGD",
                "device": "cpu",
                "settings": '{"boundary":{"steps":50},"policy":{"seeds":8}}',
            }
        ],
        "sites": [{"total": 2, "growable": 2}],
        "attempts": [_attempt(1, "started", 1, None, None)],
        "time": [{"mean": None, "median": None, "boundaries": None}],
        "lost": [{"dropped": 0, "unreadable": 0}],
        "checkpoints": [{"committed": 0, "bytes": 0, "seconds": None}],
        "about": [{"name": "", "tags": [], "notes": "", "params": "", "metrics": 0}],
        "metrics": [],
        **{name: [] for name in _NONE},
    }


def full(name: str = "fc1", steps: int = 1000) -> dict[str, list[dict[str, Any]]]:
    """A run that was resumed and rolled back, with a seed of each fate at sites called ``name`` and more."""
    found = empty(steps)
    found["end"] = [
        {
            "sequence": 90,
            "time": "2026-01-01 00:01:00.000000",
            "status": "failed",
            "step": steps,
            "loss": None,
            "detail": name,
            "test": {name: 0.5},
        }
    ]
    found["moves"] = [
        *_life(f"{name}#1", name, 1, (100, "GERMINATED"), (150, "TRAINING"), (400, "CULLED")),
        *_life(f"{name}#2", name, 10, (450, "GERMINATED"), (500, "TRAINING"), (600, "BLENDING"), (650, "HOLDING")),
        *_life(f"{name}#2", name, 20, (700, "FOSSILISED")),
        *_life(f"{name}#3", name, 30, (800, "GERMINATED")),
    ]
    found["gates"] = [
        _gate(3, f"{name}#1", name, "verdict", False, mean=-0.001, bound=-0.02),
        _gate(12, f"{name}#2", name, "verdict", True, mean=0.03, bound=0.01),
        _gate(20, f"{name}#2", name, "audit", True, mean=0.01, bound=0.02, delta=-0.002, rent=None, ablation=0.01),
        _gate(13, f"{name}#2", name, "finite", False, mean=None, bound=None, delta=None, rent=None),
    ]
    found["decisions"] = [_decision(2, 50, "wait", name), _decision(4, 100, "germinate", name)]
    found["resumes"] = [
        {
            "sequence": 25,
            "time": "2026-01-01 00:00:30.000000",
            "epoch": 2,
            "checkpoint": 720,
            "inexact": False,
            "reopened": False,
            "seconds": 1.5,
        }
    ]
    found["rollbacks"] = [
        {
            "sequence": 40,
            "time": "2026-01-01 00:00:40.000000",
            "step": 900,
            "to_step": 780,
            "cause": name,
            "removed": [f"{name}#3"],
        }
    ]
    found["attempts"] = [
        _attempt(1, "started", 1, 720, 760),
        _attempt(2, "resumed", 721, 900, 900),
        _attempt(3, "rolled back", 901, None, steps),
    ]
    found["kernels"] = [{"kernel": "ab", "parameters": 300, "bytes": 10, "seconds": 0.1}]
    found["time"] = [{"mean": 0.02, "median": 0.02, "boundaries": 1.0}]
    found["boundaries"] = [{"x": x, "loss": 1 / (1 + x / 100), "rate": 0.1} for x in range(50, steps, 50)]
    found["loss"] = [{"x": x, "low": 0.1, "high": 1.0, "mean": 0.5, "broken": 0} for x in range(0, steps, 10)]
    found["norms"] = [
        {"x": x, "line": line, "value": 0.5 + x / steps} for x in range(0, steps, 20) for line in ("", name)
    ]
    found["about"] = [
        {"name": name, "tags": [name, "b"], "notes": name, "params": json.dumps({name: {"lr": 0.1}}), "metrics": 3}
    ]
    found["metrics"] = [
        {"metric": metric, "x": x, "value": x / steps}
        for metric in (name, "val/accuracy")
        for x in range(0, steps, 100)
    ]
    return found


def _attempt(number: int, cause: str, first: int, last: int | None, reached: int | None) -> dict[str, Any]:
    return {
        "attempt": number,
        "epoch": number,
        "cause": cause,
        "time": f"2026-01-01 00:00:{10 * number:02}.000000",
        "from_step": first,
        "to_step": last,
        "last": f"2026-01-01 00:00:{10 * number + 9:02}.000000",
        "reached": reached,
    }


def _life(seed: str, site: str, sequence: int, *stages: tuple[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "sequence": sequence + place,
            "step": step,
            "site": site,
            "seed": seed,
            "blueprint": f"{site}@0",
            "kernel": "ab",
            "stage": stage,
            "cause": "gate",
        }
        for place, (step, stage) in enumerate(stages)
    ]


def _gate(sequence: int, seed: str, site: str, gate: str, passed: bool, **numbers: float | None) -> dict[str, Any]:
    measured = {"fold": 0, "n": 100, "delta": 0.002, "rent": 0.0001, "ablation": None, **numbers}
    place = {"sequence": sequence, "step": 400, "site": site, "seed": seed, "blueprint": f"{site}@0"}
    return {**place, "gate": gate, "passed": passed, "reason": f"because of {site}", **measured}


def _decision(sequence: int, step: int, action: str, name: str) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "first": step,
        "last": step,
        "boundaries": 1,
        "outcome": "made",
        "action": action,
        "policy": name,
        "issuer": name,
        "site": name,
        "blueprint": f"{name}@0",
        "seed": f"{name}#1",
        "reason": f"waiting: {name}",
        "last_reason": f"waiting: {name}!",
        "total": 2,
    }
