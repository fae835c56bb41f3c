"""Kafka's program and the schema registry's, which Maven fetches into a cache folder, once, as ``pom.xml`` names
them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.errors import ClusterUnavailable

KAFKA = "4.2.1"
POM = Path(__file__).with_name("pom.xml")
INSTALL = "sudo apt-get install openjdk-17-jre-headless maven"
_JAVA = 17
_FETCH_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Jars:
    """``kafka`` is the folder of the broker's jars, ``registry`` the one of the registry's."""

    kafka: Path
    registry: Path

    @property
    def registry_runner(self) -> Path:
        """The jar that is the registry's program, for ``java -jar``."""
        return next(self.registry.glob("apicurio-registry-app-*-runner.jar"))


def cache() -> Path:
    """Where fetched programs are kept: the folder ``esper`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esper"


def fetched(say: Callable[[str], None] = lambda text: None) -> Jars:
    """The jars, from the cache or, the first time, by Maven. Raises ClusterUnavailable.

    The folder appears under its name when all of it is there, so several processes may fetch at once.
    """
    # A changed pom.xml names another folder.
    folder = cache() / f"kafka-{KAFKA}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"
    if not folder.exists():
        say("fetching Apache Kafka and Apicurio Registry with Maven (150 MB, once)")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="kafka-", dir=folder.parent) as work:
            made = Path(work, "made")
            _maven(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # it does when another process was faster
                    raise
    return Jars(folder / "kafka", folder / "registry")


def java() -> str:
    """The path of a Java that is new enough; raises ClusterUnavailable."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise ClusterUnavailable(f"Kafka needs Java {_JAVA}, and there is none; {INSTALL}")
    version = java_version(found)
    if version < _JAVA:
        raise ClusterUnavailable(f"Kafka needs Java {_JAVA}, and {found} is version {version}; {INSTALL}")
    return found


def java_version(path: str) -> int:
    """The major version of the Java at ``path``; 0 where it cannot be told."""
    said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    number = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(number[1]) if number else 0


def maven() -> str:
    """The path of Maven; raises ClusterUnavailable."""
    found = shutil.which("mvn")
    if found is None:
        raise ClusterUnavailable(f"Maven fetches Kafka, and there is no mvn; {INSTALL}")
    return found


def _maven(folder: Path) -> None:
    java()
    command = [maven(), "-q", "-B", "-f", str(POM), f"-Dfolder={folder}", "initialize"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise ClusterUnavailable(f"Maven fetched Kafka for {_FETCH_TIMEOUT:.0f} s without an end; try again") from error
    if done.returncode:
        said = next((line for line in done.stdout.splitlines() if "[ERROR]" in line), done.stderr.strip())
        raise ClusterUnavailable(f"Maven could not fetch Kafka: {said.partition('[ERROR] ')[2] or said}")
