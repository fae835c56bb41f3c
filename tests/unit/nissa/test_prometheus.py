"""What Prometheus reads of trainers and sinks."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from esper.errors import UsageError
from esper.nissa.prometheus import of_run, of_sink, serving
from esper.nissa.sink.process import SinkProgress
from esper.tamiyo.run.state import RunState
from tests.support.services.broken_http import BROKEN, send


def read(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert all(family.documentation for family in families)
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_run_is_told_as_it_is_when_it_is_read() -> None:
    state = RunState("run", sequence=10, loss=0.5, decisions=3)
    with serving("0", lambda: of_run(state, 42, 8, 5)) as url:
        assert url.startswith("http://127.0.0.1:")
        found = read(url)
        assert found["esper_trainer_step"] == 42
        assert found["esper_trainer_loss"] == 0.5
        assert found["esper_trainer_decisions_total"] == 3
        assert found["esper_trainer_events_total"] == 8
        assert found["esper_trainer_events_waiting"] == 2
        assert found["esper_trainer_measurements_dropped_total"] == 5
        state.decisions = 4
        assert read(url)["esper_trainer_decisions_total"] == 4
    with pytest.raises(OSError, match="refused"):
        read(url)


def test_a_sink_tells_its_lag_by_topic() -> None:
    progress = SinkProgress(records=7, failures=1, trouble="away", caught_up=12.5)
    with serving("127.0.0.1:0", lambda: of_sink(progress, {"esper.runs": 3})) as url:
        found = read(url)
    assert found["esper_sink_lag/esper.runs"] == 3
    assert (found["esper_sink_records_total"], found["esper_sink_waiting"]) == (7, 1)
    assert found["esper_sink_caught_up_timestamp_seconds"] == 12.5


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("x", r"\[HOST:\]PORT"),
        ("1.2.3.4:99999", r"\[HOST:\]PORT"),
        ("0.0.0.0:9000", "loopback"),
        ("host:9000", "loopback"),
    ],
)
def test_an_address_beyond_loopback_or_none_is_refused(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said), serving(address, lambda: ()):
        pass


def test_a_port_that_is_taken_is_named() -> None:
    with serving("0", lambda: ()) as url:
        port = url.split(":")[2].split("/")[0]
        with pytest.raises(UsageError, match=f"--metrics {port}"), serving(port, lambda: ()):
            pass


@pytest.mark.parametrize("named", ["evil.example:9464", "0.0.0.0", ""])
def test_a_strangers_name_that_leads_here_is_not_answered(named: str) -> None:
    with (
        serving("0", lambda: pytest.fail("it was measured")) as url,
        pytest.raises(urllib.error.HTTPError, match="403") as refused,
    ):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": named}))
    with refused.value as answer:
        assert answer.read().startswith(b"this is not served under that name")


@pytest.mark.parametrize("named", ["localhost:9464", "[::1]", "127.0.0.1"])
def test_any_name_of_loopback_is(named: str) -> None:
    with (
        serving("0", lambda: of_run(RunState("run"), 1, 1, 0)) as url,
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": named})) as answer,
    ):
        assert b"esper_trainer_step 1.0" in answer.read()


def test_it_is_served_at_ipv6s_loopback_too() -> None:
    with serving("::1:0", lambda: of_run(RunState("run"), 7, 1, 0)) as url:
        assert read(url)["esper_trainer_step"] == 7


def test_broken_requests_leave_nothing_on_a_trainers_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with serving("0", lambda: of_run(RunState("run"), 1, 1, 0)) as url:
        for request in BROKEN.values():
            send(int(url.rpartition(":")[2].partition("/")[0]), request)
        assert read(url)["esper_trainer_step"] == 1
    assert capfd.readouterr() == ("", "")
