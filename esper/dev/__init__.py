"""Apache Kafka and a schema registry on this machine, for development and tests: ``esper dev up``.

They are the real ones, as processes of the user's on the loopback interface. ``Cluster`` is all of it.
"""

from __future__ import annotations

from esper.dev.cluster import Addresses, Cluster

__all__ = ["Addresses", "Cluster"]
