"""From a file and what a user sets beside it to a configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from afcore.config.changes import change_keys
from afcore.config.modes import PEER_MODES
from afcore.config.tree import Config
from afcore.errors import ConfigError
from afcore.extras import require_package
from afcore.yaml_files import parse, read_mapping, read_value

__all__ = ["check_extras", "load_config", "parse_config", "parse_overrides"]


def load_config(path: str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply ``key.path=value`` overrides (values are YAML too).

    With another ``freezing.policy`` the file's keys that it does not have are left behind.

    Raises:
        ConfigError: when the file cannot be read or anything in it is not allowed.
    """
    tree = read_mapping(
        Path(path),
        "the configuration",
        "Give the path of a YAML file; `autofreeze examples` writes some.",
    )
    change_keys(tree, parse_overrides(overrides, "--set"), source="--set")
    return parse_config(tree, source=path)


def parse_overrides(overrides: Iterable[str], source: str) -> dict[str, Any]:
    """``key.path=value`` each, as values by their keys; values are YAML.

    Args:
        overrides: of the user.
        source: what the user wrote them behind, in messages.

    Raises:
        ConfigError: for one of another form.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{source} {override!r} is not of the form key.path=value")
        changes[key.strip()] = read_value(text, f"{source} {override!r}: the value")
    return changes


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a tree of plain values.

    Raises:
        ConfigError: naming each offending key, what was got and what is allowed.
    """
    return parse(Config, tree, source)


def check_extras(config: Config) -> None:
    """Make sure that the optional packages that a training needs are installed.

    Raises:
        ConfigError: when not.
    """
    if config.mode == "hf_trainer_lora":
        require_package("peft", "mode hf_trainer_lora")
    if config.adapter is not None and config.mode not in PEER_MODES:
        require_package("peft", f"adapter.kind: {config.adapter.kind}")
    if config.quantization is not None:
        require_package("bitsandbytes", f"model.quantization: {config.quantization}")
    if config.workers.launcher == "ray" and config.mode not in PEER_MODES:
        require_package("ray", "workers.launcher: ray")
