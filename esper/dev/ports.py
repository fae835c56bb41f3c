"""Free loopback ports that stay free while the process that owns them is down."""

from __future__ import annotations

import random
import socket

from esper.errors import ClusterUnavailable

# Below the range from which systems take the ports of outgoing connections: one of those could occupy the port of a
# broker that is being restarted, and a client that keeps trying a port in that range ends up connected to itself.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200


def free_ports(count: int) -> list[int]:
    """Different ports on which nothing listens."""
    drawn = random.SystemRandom()
    ports: list[int] = []
    for _ in range(_ATTEMPTS):
        port = drawn.randrange(_FIRST, _LAST)
        if port not in ports and is_free(port):
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ClusterUnavailable(f"no {count} free ports between {_FIRST} and {_LAST} on the loopback interface")


def is_free(port: int) -> bool:
    """Whether this process could listen on ``port`` of 127.0.0.1 now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts a connection to ``port`` within a second."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
