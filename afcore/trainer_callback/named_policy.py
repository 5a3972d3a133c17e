"""A policy by its name and keys, as a section ``freezing`` of the configuration would have it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from afcore.errors import ConfigError
from afcore.freezing.known_policies import Policy
from afcore.freezing.policy import FreezePolicy
from afcore.yaml_files import parse

__all__ = ["named_policy"]

_own: dict[str, FreezePolicy] = {}


class _Settings(BaseModel):
    freezing: Annotated[Policy, Field(discriminator="policy")]


def named_policy(
    policy: str | Mapping[str, Any] | FreezePolicy, keys: Mapping[str, Any]
) -> FreezePolicy:
    """The policy.

    Args:
        policy: its name, its section, or itself. One that is itself given is found by its section
            later in this process: the Trainer restores callbacks from that.
        keys: more of the section.

    Raises:
        ConfigError: for a name, key or value that is not allowed.
    """
    if isinstance(policy, FreezePolicy):
        if keys:
            policy = parse(type(policy), {**policy.model_dump(), **keys}, "AutoFreezeCallback")
        _own[policy.policy] = policy
        return policy
    if not isinstance(policy, str | Mapping):
        raise ConfigError(
            f"AutoFreezeCallback: the policy is {policy!r}; expected its name (gradient_norm), a "
            "dict of its keys, or a FreezePolicy"
        )
    section = {"policy": policy, **keys} if isinstance(policy, str) else {**policy, **keys}
    own = _own.get(str(section.get("policy")))
    if own is not None and own.model_dump() == section:
        return own
    return parse(_Settings, {"freezing": section}, "AutoFreezeCallback").freezing
