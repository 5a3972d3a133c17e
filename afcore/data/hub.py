"""Data sets of the Hugging Face hub, by their names: ``NAME[CONFIGURATION]@REVISION:SPLIT``.

Which revision a name stands for is asked first, so that it can be recorded and asked for again.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import datasets
from datasets.packaged_modules.cache.cache import Cache

from afcore.errors import DataError

__all__ = ["HubName", "is_commit", "load_hub_dataset", "resolve_revision"]

_PREFIX = "hf://datasets/"
_NAME = re.compile(
    r"(?P<name>.+?)"
    r"(\[(?P<config>[^\[\]]+)\])?"
    r"(@(?P<revision>[^@:]+))?"
    r"(:(?P<split>(?!//).+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A name in its parts.

    Attributes:
        name: as the hub has it, ``nyu-mll/glue``, or ``hf://datasets/nyu-mll/glue``.
        config: one of the data set's configurations (subsets); None: its only one, or default.
        revision: commit, tag or branch; None: what the hub shows now.
        split: ``train``, ``train[:10%]``, ...; None: by what it is asked for.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, source: str) -> "HubName":
        """From text, whatever it is; an empty part is none."""
        found = _NAME.fullmatch(source)
        return cls(source) if found is None else cls(**found.groupdict())

    def __str__(self) -> str:
        parts = (self.config and f"[{self.config}]", self.revision and f"@{self.revision}")
        return f"{self.name}{''.join(filter(None, parts))}{(self.split and f':{self.split}') or ''}"

    @property
    def repository(self) -> str:
        """The name without a protocol."""
        return self.name.removeprefix(_PREFIX)

    def at(self, revision: str) -> "HubName":
        """The same of another revision."""
        return replace(self, revision=revision)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit hash, which stands for the same for ever."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def resolve_revision(source: HubName) -> str:
    """The commit that the name stands for now: the hub's; without it, that of the last copy here.

    Raises:
        DataError: for a revision that is not the one of the copy here.
        Exception: of ``datasets``, for what it does not find.
    """
    return str(_builder(source).hash)


def load_hub_dataset(source: HubName, split: str) -> datasets.Dataset:
    """One split, downloaded unless a copy is here; ``split`` where the name has none.

    Raises:
        DataError: for a revision that is not the one of the copy here.
        Exception: of ``datasets``, for what it does not find.
    """
    builder = _builder(source)
    builder.download_and_prepare()
    dataset: datasets.Dataset = builder.as_dataset(split=source.split or split)
    return dataset


def _builder(source: HubName) -> Any:
    if not re.search(r"\w", source.name.partition(":")[0]):
        raise DataError(
            f"cannot load the data {str(source)!r}: that is no name of a file, folder or data set."
        )
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(
            source.name, source.config, revision=source.revision
        )
    except ConnectionError as error:
        raise DataError(
            f"cannot load the data {str(source)!r}: here is no such file, folder or copy of a hub "
            f"data set, and the hub cannot be reached ({' '.join(str(error).split())}). Check the "
            "name, the network, HF_HUB_OFFLINE and HF_ENDPOINT."
        ) from error
    # Without the hub ``datasets`` takes the last copy, whatever revision was asked for.
    if isinstance(builder, Cache) and source.revision not in (None, builder.hash):
        what = "" if is_commit(source.revision) else ", which may be another one"
        raise DataError(
            f"cannot load the data {str(source)!r}: the hub cannot be reached, and the last copy "
            f"here is of the revision {builder.hash}{what}. Connect, or give that revision."
        )
    return builder
