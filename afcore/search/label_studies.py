"""Several label columns over one text column: a study for each, whose sets are the same."""

import re
from pathlib import Path

from afcore.config import Config
from afcore.search.space import search_of

__all__ = ["file_of_label", "label_configs", "name_of_label"]


def label_configs(config: Config) -> dict[str, Config]:
    """The searches of a configuration, by label column; one of no name where none are given."""
    labels = search_of(config).labels
    if labels is None:
        return {"": config}
    return {
        label: config.replace(**{"data.label": label, "search.labels": [label]}) for label in labels
    }


def file_of_label(path: str, label: str) -> str:
    """Of files that there is one of for each column: ``a.best.yaml`` as ``a.best.LABEL.yaml``."""
    if not label:
        return path
    given = Path(path)
    return str(given.with_name(f"{given.stem}.{name_of_label(label)}{given.suffix}"))


def name_of_label(label: str) -> str:
    """A column's name, as a file may have it."""
    return re.sub(r"[^\w.-]", "-", label)
