"""The configuration of a run that was started elsewhere, of which one value may be another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afcore.config import Config, change_keys, parse_config, parse_overrides
from afcore.errors import ConfigError
from afcore.yaml_files import read_mapping

__all__ = ["config_of", "given_config"]


def given_config(
    config: Config, config_path: str | None = None, overrides: Sequence[str] | None = None
) -> Config:
    """What a flow trains.

    Args:
        config: of the deployment, or of the command line.
        config_path: YAML file, in the folder in which the worker was started, that takes its place;
            where it names no store or tracking server, the deployment's stay.
        overrides: ``key.path=value`` each, values as in YAML (``5e-4`` is a number).

    Raises:
        ConfigError: when the file cannot be read or anything is not allowed.
    """
    if config_path is None and not overrides:
        return config
    tree, source = config.model_dump(mode="json"), "overrides"
    if config_path is not None:
        own, source = tree, config_path
        what = "Give the path of a YAML file, as seen from the worker's folder."
        tree = read_mapping(Path(config_path), "config_path", what)
        tree.setdefault("store", own["store"])
        if isinstance(tracking := tree.setdefault("tracking", {}), dict):
            tracking.setdefault("uri", own["tracking"]["uri"])
    change_keys(tree, parse_overrides(overrides or (), "overrides"), source="overrides")
    return parse_config(tree, source=source)


def config_of(parameters: Mapping[str, Any]) -> Config:
    """What a flow run is named after: as :func:`given_config`, of the parameters that it has."""
    given = parameters["config"]
    config = given if isinstance(given, Config) else Config.model_validate(given)
    try:
        return given_config(config, parameters.get("config_path"), parameters.get("overrides"))
    except ConfigError:  # which the run then ends with
        return config
