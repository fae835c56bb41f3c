"""What the gates measured, in words and as places on a line."""

from __future__ import annotations

from esper.nissa.report.evidence import measured
from tests.support.runs.reporting import full


def test_evidence_says_the_bound_against_the_threshold():
    failed, passed, audit, finite = measured(full()["gates"])
    assert "has to be more than 0.0021" in failed.answer
    assert failed.drawing.bound < failed.drawing.mean < failed.drawing.zero < failed.drawing.threshold
    assert "surely lower by at least 0.01: more than the 0.0021" in passed.answer
    assert passed.drawing.threshold < passed.drawing.bound
    assert "0.02, is not below −0.002, which would be a rise beyond doubt" in audit.answer
    harmful = {**full()["gates"][2], "passed": False, "mean": -0.03, "bound": -0.01}
    [audit] = measured([harmful])
    assert "the loss rose by 0.03 on 100 held-out examples, surely by at least 0.01: more than" in audit.answer
    assert (finite.drawing, finite.answer) == (None, "because of fc1")
