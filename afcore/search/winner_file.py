"""The best configuration as a file that ``autofreeze run`` takes, and that names the same run."""

from pathlib import Path
from typing import Any

import yaml

from afcore.config import Config, parse_config
from afcore.storage.outputs import new_file

__all__ = ["BEST_OPTION", "config_text", "write_config"]

BEST_OPTION = "--best"


def config_text(config: Config) -> str:
    """A configuration as YAML: what is not as by default."""
    tree = config.model_dump(mode="json", exclude={"search"}, exclude_defaults=True)
    tree.setdefault("freezing", {})["policy"] = config.freezing.policy  # each has its own default
    plain = config.model_copy(update={"search": None})
    if parse_config(tree, source="the best configuration") != plain:
        tree = config.model_dump(mode="json", exclude={"search"})
    return yaml.safe_dump(_in_order(tree), sort_keys=False, allow_unicode=True)


def write_config(config: Config, path: Path, comment: str) -> None:
    """Write it in one step.

    Args:
        config: of a run.
        path: of the file; replaced.
        comment: its first line.
    """
    with new_file(path, BEST_OPTION) as draft:
        draft.write_text(f"# {comment}\n{config_text(config)}", encoding="utf-8")


def _in_order(tree: dict[str, Any]) -> dict[str, Any]:
    """As the sections stand in the configuration."""
    return {name: tree[name] for name in Config.model_fields if name in tree}
