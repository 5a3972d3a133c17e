"""Keys of a tree of plain values changed, before it is a configuration."""

from collections.abc import Mapping
from typing import Any, get_args

from afcore.errors import ConfigError
from afcore.freezing.known_policies import DEFAULT_POLICY, Policy

__all__ = ["change_keys", "named_policy"]


def named_policy(section: object) -> object:
    """A section that names no policy is the default one's."""
    if not isinstance(section, dict):
        return section
    return {"policy": DEFAULT_POLICY.model_fields["policy"].default, **section}


def change_keys(tree: dict[str, Any], changes: Mapping[str, Any], source: str) -> None:
    """Change a tree of plain values by dotted keys, in place.

    With another ``freezing.policy`` the keys that it does not have are left behind.

    Raises:
        ConfigError: where a key goes through a value that is no section.
    """
    if "freezing.policy" in changes:
        _leave_behind(tree, changes["freezing.policy"])
    for key, value in changes.items():
        _set(tree, key, value, source)


def _leave_behind(tree: dict[str, Any], policy: object) -> None:
    """Drop what another policy than ``policy`` was configured with.

    A key that neither of them has stays, and is refused.
    """
    kinds = {kind.model_fields["policy"].default: kind for kind in get_args(Policy)}
    section = named_policy(tree.get("freezing"))
    if not isinstance(section, dict) or not isinstance(policy, str):
        return
    before, after = kinds.get(section["policy"]), kinds.get(policy)
    if before and after:
        left = before.model_fields.keys() - after.model_fields
        tree["freezing"] = {key: value for key, value in section.items() if key not in left}


def _set(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, leaf = key.split(".")
    for name in parents:
        if tree.get(name) is None:
            tree[name] = {}
        child = tree[name]
        if not isinstance(child, dict):
            raise ConfigError(f"{source}: {key}: {name!r} is a value, not a section")
        tree = child
    tree[leaf] = value
