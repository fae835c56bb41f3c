"""The alerts of ``compose/``, checked by promtool: Debian's ``prometheus`` has it; with ESPER_CI it has to be there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.services.measured import served

COMPOSE = ROOT / "compose"
ALERTS = (COMPOSE / "alerts.yml").read_text("utf-8")
CHECKS = (COMPOSE / "alerts.test.yml").read_text("utf-8")
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def promtool(*words: object, given: bytes = b"") -> str:
    """What promtool says; fails if it finds fault."""
    path = shutil.which("promtool")
    if path is None:
        reason = "no promtool: apt-get install prometheus"
        pytest.fail(reason) if os.environ.get("ESPER_CI") else pytest.skip(reason)
    done = subprocess.run([path, *map(str, words)], input=given, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_rules_are_well_formed() -> None:
    assert f"{len(NAMES)} rules found" in promtool("check", "rules", COMPOSE / "alerts.yml")


def test_each_alert_is_raised_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", COMPOSE / "alerts.test.yml")


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_shown_raised(name: str) -> None:
    assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels", CHECKS)


def test_prometheus_in_compose_loads_the_alerts(tmp_path: Path) -> None:
    config = (COMPOSE / "prometheus.yml").read_text("utf-8")
    secrets = set(re.findall(r"/run/secrets/([\w.-]+)", config))
    for name in secrets:
        (tmp_path / name).write_text("secret")
    (tmp_path / "prometheus.yml").write_text(config.replace("/run/secrets", str(tmp_path)))
    shutil.copy(COMPOSE / "alerts.yml", tmp_path)
    said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert "1 rule files found" in said
    service = (COMPOSE / "compose.yaml").read_text("utf-8").partition("\n  prometheus:\n")[2].partition("\n\n")[0]
    for name in ("prometheus.yml", "alerts.yml"):
        assert f"- ./{name}:/etc/prometheus/{name}:ro" in service
    assert secrets == set(re.search(r"secrets: \[(.+)\]", service)[1].split(", "))  # type: ignore[index]


def test_alerts_and_their_checks_name_series_that_are_served() -> None:
    known = {name for each in served() for name in each.series}
    for text in (ALERTS, CHECKS):
        assert set(re.findall(r"esper_\w+", text)) <= known


def test_what_is_served_is_named_as_prometheus_wants_it() -> None:
    for each in served():
        assert promtool("check", "metrics", given=each.text) == ""
