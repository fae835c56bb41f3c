"""A log on Kafka for a benchmark: new topics on the brokers that are named, or on one started for it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from tempfile import TemporaryDirectory

from esper.dev.cluster import Cluster
from esper.log.kafka import open_kafka
from esper.log.kafka.admin.topics import make_topics


@contextmanager
def kafka_log() -> Iterator[str]:
    """The URL of an empty log: on the cluster of ``ESPER_LOG`` if that is one on Kafka, else on a broker and a registry
    of our own (whose data goes with them)."""
    given = os.environ.get("ESPER_LOG", "")
    if given.startswith("kafka://"):
        yield _new_log(given.removeprefix("kafka://").partition("/")[0])
        return
    with TemporaryDirectory(prefix=".bench-", dir=".") as folder:
        cluster = Cluster(folder)
        before = os.environ.get("ESPER_REGISTRY")
        try:
            found = cluster.up(1)
            os.environ["ESPER_REGISTRY"] = found.registry
            yield _new_log(found.log.removeprefix("kafka://").partition("/")[0])
        finally:
            cluster.down()
            os.environ.pop("ESPER_REGISTRY", None)
            if before is not None:
                os.environ["ESPER_REGISTRY"] = before


def _new_log(servers: str) -> str:
    url = f"kafka://{servers}/bench-{uuid.uuid4().hex[:12]}"
    with closing(open_kafka(url)) as log:
        make_topics(log)
    return url
