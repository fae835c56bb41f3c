"""Where a log on Kafka lies: its brokers, and the prefix that sets it apart from others on the same cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from esper.errors import UsageError

WRITERS = "esper-run-"
"""What a run's transactional id begins with."""
READERS = "esper"
"""The group that readers say they are in; nothing is ever committed to it."""
_URL = re.compile(r"kafka://(?P<servers>[^/]+)(?:/(?P<prefix>[A-Za-z0-9._-]*))?")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """``servers`` are ``host:port`` pairs with commas between; ``prefix`` may be empty."""

    servers: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address in ``kafka://HOST:PORT[,HOST:PORT...][/PREFIX]``; raises UsageError."""
        match = _URL.fullmatch(url)
        if match is None or not all(map(_SERVER.fullmatch, match["servers"].split(","))):
            shown = re.sub("//[^/]*@", "//***@", url)
            raise UsageError(
                f"{shown!r} is not a log on Kafka; write kafka://HOST:PORT[,HOST:PORT...][/PREFIX] (letters, digits, "
                "._-)"
            )
        return cls(match["servers"], match["prefix"] or "")

    @property
    def url(self) -> str:
        """The address as ``parse`` takes it."""
        return f"kafka://{self.servers}" + (f"/{self.prefix}" if self.prefix else "")

    def named(self, name: str) -> str:
        """What the cluster calls our ``name`` (a topic, a transactional id, a group)."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def transactional_id(self, run_id: str) -> str:
        """Of the run's one writer. A run id of letters, digits and ``_.-~`` is in it as it is."""
        return self.named(f"{WRITERS}{quote(run_id, safe='')}")
