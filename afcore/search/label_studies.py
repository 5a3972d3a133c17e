"""Several label columns over one text column: a study for each, whose sets are the same."""

import re
from collections.abc import Iterable
from pathlib import Path

from afcore.config import Config
from afcore.search.space import search_of

__all__ = ["file_of_label", "label_configs", "names_of_labels"]


def label_configs(config: Config) -> dict[str, Config]:
    """The searches of a configuration, by label column; one of no name where none are given."""
    labels = search_of(config).labels
    if labels is None:
        return {"": config}
    return {
        label: config.replace(**{"data.label": label, "search.labels": [label]}) for label in labels
    }


def file_of_label(path: str, name: str) -> str:
    """Of files that there is one of for each column: ``a.best.yaml`` as ``a.best.NAME.yaml``."""
    if not name:
        return path
    given = Path(path)
    return str(given.with_name(f"{given.stem}.{name}{given.suffix}"))


def names_of_labels(labels: Iterable[str]) -> dict[str, str]:
    """The columns' names, as files may have them: no two the same, also where case is ignored."""
    names: dict[str, str] = {}
    for label in labels:
        name = plain = re.sub(r"[^\w.-]", "-", label)
        taken, number = {one.casefold() for one in names.values()}, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        names[label] = name
    return names
