"""The policies by name and version: a module of this package for each version, and those of installed packages.

Such a module holds its policy as ``POLICY``; one that ever decided stays, for decisions on logs are made again. A
package of yours names its policy as an entry point of the group ``esper.policies``.
"""

from __future__ import annotations

from functools import cache

from esper.errors import UsageError
from esper.plugins import Plugins
from esper.tamiyo.policy.observation import observer
from esper.tamiyo.policy.policy import Policy


def newest(name: str) -> Policy:
    """The newest version of the policy called ``name``. Raises UsageError, naming the policies that there are."""
    versions = [policy for policy in registered().values() if policy.name == name]
    if not versions:
        there = ", ".join(sorted({policy.name for policy in registered().values()}))
        raise UsageError(
            f"there is no policy {name!r} (policy.name); here are: {there}; choose one, or install its package"
        )
    return max(versions, key=lambda policy: int(policy.version))


def known(name: str, version: str) -> Policy | None:
    """That version of that policy; None where it is not known here."""
    return registered().get((name, version))


@cache
def registered() -> dict[tuple[str, str], Policy]:
    """Every version of every policy. Raises UsageError when one is there twice, has a version that is no number, or
    takes an observation that is not known."""
    policies: Plugins[Policy] = Plugins(
        "policy",
        Policy,  # type: ignore[type-abstract]
        __name__,
        "POLICY",
        "esper.policies",
        key=lambda policy: f"{policy.name} {policy.version}",
    )
    for policy in policies:
        if not (isinstance(policy.version, str) and policy.version.isdecimal()):
            raise UsageError(f"policy {policy.name}: version {policy.version!r} is no text of digits; make it one")
        observer(policy.observation)
    return {(policy.name, policy.version): policy for policy in policies}
