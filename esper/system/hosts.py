"""Which requests a local HTTP server answers: those that call it by a name of its own.

A stranger's page in a browser on this machine may ask for its own name and have that lead here (DNS rebinding). What it
reads then is its own, as the browser sees it; but the name is in the request's ``Host``.
"""

from __future__ import annotations

import ipaddress
import re

_NAMED = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]@/,\s]+))(?::\d*)?")
_ALL = ("0.0.0.0", "::")
REFUSED = "this is not served under that name; ask for localhost, or for the address that it was told to listen at"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is served at ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_own(named: str | None, host: str) -> bool:
    """Whether a request whose ``Host`` says ``named`` is for a listener that was told to listen at ``host``.

    No browser leaves the header out, and who listens at all addresses cannot know its names.
    """
    if named is None or host in _ALL:
        return True
    found = _NAMED.fullmatch(named)
    if found is None:
        return False
    name = (found[1] or found[2]).lower().rstrip(".")
    return is_loopback(name) or name == host.lower()
