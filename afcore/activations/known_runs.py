"""What is asked of runs when sets are looked after: each run is asked once, however many sets."""

import functools
import json
from dataclasses import dataclass, field
from typing import Any

from afcore.storage.lease import is_held
from afcore.storage.objects import Storage

__all__ = ["KnownRun", "KnownRuns"]


@dataclass(frozen=True)
class KnownRun:
    """Of a run's record, as plain values: one of an older release need not fit today's.

    Attributes:
        training_id: the training that counts.
        weights: digests of the parts that it began with.
        is_damaged: nothing is known; a later run may mend the record.
    """

    training_id: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    is_damaged: bool = False


class KnownRuns:
    """Runs of a store by their folder; what was once answered is not asked again."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.find = functools.cache(self._find)
        self.is_live = functools.cache(self._is_live)
        self.is_finished = functools.cache(self._is_finished)
        self.next_sets = functools.cache(self._next_sets)

    def _find(self, folder: str) -> KnownRun | None:
        """Its record; None: there is none."""
        try:
            tree = json.loads(self._storage.get(f"{folder}/run.json"))
            return KnownRun(tree["training_id"], dict(tree["weights"]))
        except KeyError as error:
            # The storage's own names the key.
            return None if error.args == (f"{folder}/run.json",) else KnownRun(is_damaged=True)
        except (ValueError, TypeError):
            return KnownRun(is_damaged=True)

    def _is_live(self, folder: str) -> bool:
        return is_held(self._storage, f"{folder}/lease")

    def _is_finished(self, folder: str) -> bool:
        """Of one whose record is there: the training that counts is done."""
        run = self.find(folder)
        return run is not None and self._storage.exists(f"{folder}/{run.training_id}/result.json")

    def _next_sets(self, training_folder: str) -> frozenset[str]:
        """Folders of the sets that a run, started again, reads first."""
        keys = self._storage.list(f"{training_folder}/epochs")
        deciding = sorted(key for key in keys if key.endswith(("next.json", "checkpoint.json")))
        # The last epoch may have to be trained again, or its set to build the next one from.
        records = [self._read(key) for key in deciding[-2:]]
        decided = [record.get("next", record) or {} for record in records]
        references = [decision.get("read_from") for decision in decided]
        return frozenset(reference["folder"] for reference in references if reference)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            tree: Any = json.loads(self._storage.get(key))
        except (KeyError, ValueError):
            return {}
        return tree if isinstance(tree, dict) else {}
