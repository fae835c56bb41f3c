"""What ``esper dev`` is made of, without a broker: processes, ports, jars and the state file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.dev import jars
from esper.dev.broker import new_cluster_id, settings
from esper.dev.cluster import Cluster
from esper.dev.ports import free_ports, is_free
from esper.dev.processes import alive, send, spawn, stop
from esper.errors import ClusterUnavailable, UsageError

SLEEP = [sys.executable, "-c", "import time; print('slept', flush=True); time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path):
    process = spawn(SLEEP, output=tmp_path / "output")
    yield process
    send(process, signal.SIGKILL)


@pytest.fixture
def fake_tools(tmp_path, monkeypatch):
    """A java that is new enough, and an mvn that takes its time and leaves a folder as Maven does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "java": "#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n",
        "mvn": "#!/bin/sh\n"
        f"echo run >> {tmp_path}/runs\n"
        'for each; do case "$each" in -Dfolder=*) folder="${each#-Dfolder=}";; esac; done\n'
        'mkdir -p "$folder/kafka" "$folder/registry"; sleep 0.3; echo jar > "$folder/kafka/kafka.jar"\n',
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_spawned_process_writes_to_its_file_and_is_alive_until_it_is_stopped(sleeper, tmp_path):
    until = time.monotonic() + 10
    while "slept" not in (tmp_path / "output").read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert alive(sleeper)
    stop([sleeper], patience=5)
    assert not alive(sleeper)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process = spawn([sys.executable, "-c", code], output=tmp_path / "output")
    until = time.monotonic() + 10
    while "deaf" not in (tmp_path / "output").read_text() and time.monotonic() < until:
        time.sleep(0.01)
    stop([process], patience=0.2)
    assert not alive(process)


def test_a_pid_that_belongs_to_another_process_now_is_never_signalled(sleeper):
    recycled = replace(sleeper, started="some other time")
    assert not alive(recycled)
    send(recycled, signal.SIGKILL)
    stop([recycled], patience=1)
    assert alive(sleeper)


def test_down_leaves_a_stranger_alone_that_has_the_brokers_pid(sleeper, tmp_path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    (home / "state.json").write_text(
        '{"cluster_id": "x", "nodes": [{"number": 1, "port": 1, "controller_port": 2}], "registry_port": null,'
        f' "processes": {{"broker-1": {{"pid": {sleeper.pid}, "started": "before"}}}}}}'
    )
    assert main(["dev", "down", "--home", str(home)]) == 0
    assert capsys.readouterr().out == f"nothing of {home} was running\n"
    assert alive(sleeper)


def test_a_dead_child_that_nobody_waited_for_is_not_alive(tmp_path):
    process = spawn(["true"], output=tmp_path / "output")
    until = time.monotonic() + 10
    while alive(process) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(process)


def test_free_ports_differ_and_no_outgoing_connection_can_take_them():
    ports = free_ports(7)
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert len(set(ports)) == 7
    assert max(ports) < int(first)


def test_a_port_on_which_something_listens_is_not_free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_cluster_ids_are_no_options():
    assert not any(new_cluster_id().startswith("-") for _ in range(500))


def test_three_brokers_keep_three_copies_and_want_two_of_them():
    three = settings(3)
    assert three["min.insync.replicas"] == three["transaction.state.log.min.isr"] == "2"
    copies = [value for name, value in three.items() if name.endswith("replication.factor")]
    assert copies == ["3"] * len(copies)


def test_two_processes_may_fetch_the_jars_at_once(fake_tools, tmp_path):
    command = [sys.executable, "-c", "from esper.dev.jars import fetched; print(fetched().kafka)"]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=True), range(2)))
    assert len({each.stdout for each in done}) == 1
    assert (Path(done[0].stdout.strip()) / "kafka.jar").read_text() == "jar\n"
    assert len(list((tmp_path / "cache/esper").iterdir())) == 1, "something half done was left behind"


def test_jars_are_fetched_once(fake_tools, tmp_path):
    assert jars.fetched() == jars.fetched()
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_fetch_that_fails_says_what_maven_said_and_leaves_nothing(fake_tools, tmp_path):
    (fake_tools / "mvn").write_text("#!/bin/sh\necho '[ERROR] no route to central'\nexit 1\n")
    with pytest.raises(ClusterUnavailable, match=r"^Maven could not fetch Kafka: no route to central$"):
        jars.fetched()
    assert not list((tmp_path / "cache/esper").iterdir())


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_without_java_or_maven_one_line_says_what_to_install(fake_tools, tmp_path, monkeypatch, capsys, missing):
    (fake_tools / missing).unlink()
    monkeypatch.setenv("PATH", str(fake_tools))
    assert main(["dev", "up", "--home", str(tmp_path / "home")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("; sudo apt-get install openjdk-17-jre-headless maven")
    assert not (tmp_path / "home/state.json").exists()


def test_an_old_java_is_refused(fake_tools):
    (fake_tools / "java").write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    with pytest.raises(ClusterUnavailable, match=r"is version 8; sudo apt-get"):
        jars.java()


def test_two_brokers_are_refused_as_the_help_says(tmp_path, capsys):
    with pytest.raises(UsageError, match="1 broker or 3, not 2"):
        Cluster(tmp_path).up(2)
    assert main(["dev", "up", "--brokers", "2", "--home", str(tmp_path / "home")]) == 2
    assert "'2' is not one of '1', '3'" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
    main(["dev", "up", "--help"])
    assert "--brokers [1|3]" in capsys.readouterr().out


def test_a_state_file_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "state.json").write_text("{}")
    assert main(["dev", "status", "--home", str(tmp_path)]) == 1
    assert f"{tmp_path}/state.json is not a cluster's state" in capsys.readouterr().err


def test_status_of_nothing_says_how_to_start(tmp_path, capsys):
    assert main(["dev", "status", "--home", str(tmp_path / "none")]) == 1
    assert "esper dev up" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_down_of_nothing_is_done(tmp_path, capsys):
    assert main(["dev", "down", "--home", str(tmp_path / "none")]) == 0
    assert not os.path.exists(tmp_path / "none")
