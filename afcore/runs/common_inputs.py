"""What runs of one process that begin alike open once: a study's trials.

Everything is handed out under its content: data by the digest of its rows, the pre-trained model
and the state between two epochs by those of their weights, a solved head by that of all that it was
solved on. So a run gets bit for bit what it would have opened, or made, alone.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from afcore.digest import ContentDigest, RecipeDigest
from afcore.memory import available_memory
from afcore.model.split_model import SplitModel
from afcore.model.stacks import ModelStructure
from afcore.storage.objects import Storage
from afcore.tasks.stored_tokens import PreparedData
from afcore.tasks.task import Task

__all__ = ["CommonInputs", "LookedAt", "spare_copy"]

_MOST_HEADS = 64
_SHARE_OF_MEMORY = 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookedAt:
    """Data and model, as they were found to be; of how they are trained, nothing.

    Attributes:
        data: prepared; its task knows the model.
        architecture: the model's configuration.
        structure: where its parts are.
        num_blocks: L.
        num_pretrained: blocks from the bottom up that were trained before.
        weights: digests by part.
        uncacheable: why hidden states cannot be cached; None: they can.
        model: as it was loaded, on the CPU, to be copied; None where it is not wanted again.
    """

    data: PreparedData
    architecture: dict[str, Any]
    structure: ModelStructure
    num_blocks: int
    num_pretrained: int
    weights: dict[str, ContentDigest]
    uncacheable: str | None
    model: Any | None = None

    @property
    def task(self) -> Task:
        """What is learned."""
        return self.data.task


class CommonInputs:
    """What was opened or made by one run of this process and may serve the next one.

    Holds the last few data sets and heads, one model and one state, in memory that a process that
    trains alone would have given back.

    Args:
        most_looks: data sets at most: as many as are looked at in turn, or none is found again.
    """

    def __init__(self, most_looks: int = 4) -> None:
        self._most_looks = most_looks
        self._looks: OrderedDict[RecipeDigest, LookedAt] = OrderedDict()
        self._state: tuple[dict[str, ContentDigest], SplitModel, dict[str, Tensor]] | None = None
        self._heads: OrderedDict[RecipeDigest, dict[str, Tensor]] = OrderedDict()
        self._stored: dict[ContentDigest, str] = {}

    def look(self, key: RecipeDigest, look: Callable[[], LookedAt]) -> LookedAt:
        """What was found under settings that say the same of data and model; else look now."""
        found = self._looks.pop(key, None)
        if found is None:
            for other, held in self._looks.items():  # before another is loaded
                self._looks[other] = replace(held, model=None)
            found = look()
        self._looks[key] = found
        while len(self._looks) > self._most_looks:
            self._looks.popitem(last=False)
        return found

    def data(self, digest: RecipeDigest) -> PreparedData | None:
        """What was prepared, where it was looked at here."""
        return next((one.data for one in self._looks.values() if one.data.digest == digest), None)

    def model(
        self, weights: Mapping[str, ContentDigest], architecture: Mapping[str, Any], task: Task
    ) -> Any | None:
        """A copy of the pre-trained model of these, on the CPU; None where none is held."""
        for one in self._looks.values():
            wanted = (weights, architecture, task)
            if one.model is not None and (one.weights, one.architecture, one.task) == wanted:
                return copy.deepcopy(one.model)
        return None

    def hand_over(
        self, parts: dict[str, ContentDigest], split: SplitModel, moments: dict[str, Tensor]
    ) -> None:
        """Leave a state that was just committed to whoever goes on from it; one is held.

        Args:
            parts: digests of what is stored of it.
            split: the model, which its owner uses no more.
            moments: of its optimizer, likewise.
        """
        self._state = parts, split, moments

    def take_over(
        self, parts: Mapping[str, ContentDigest]
    ) -> tuple[SplitModel, dict[str, Tensor]] | None:
        """The state that is stored as ``parts``, for him who asks alone; None where none is."""
        held, self._state = self._state, None
        if held is None or held[0] != parts:
            return None
        return held[1:]

    def drop_state(self) -> None:
        """Let go of what was handed over: who would go on from it does not."""
        self._state = None

    def solved_head(self, key: RecipeDigest) -> dict[str, Tensor]:
        """The last layer, by the names of its tensors; empty, to be filled in, where none is.

        Args:
            key: of everything that it is solved on.
        """
        self._heads[key] = self._heads.pop(key, {})
        while len(self._heads) > _MOST_HEADS:
            self._heads.popitem(last=False)
        return self._heads[key]

    def note_stored(self, digest: ContentDigest, key: str) -> None:
        """A part that other runs begin with lies under ``key`` in the store."""
        self._stored[digest] = key

    def copy_stored(self, storage: Storage, digest: ContentDigest, target: str) -> bool:
        """Give a part that some run stored a name in another run; False where there is none."""
        source = self._stored.get(digest)
        if source is None:
            return False
        try:
            storage.copy(source, target)
        except KeyError:  # that run was deleted since
            del self._stored[digest]
            return False
        return True

    def clear(self) -> None:
        """Let go of everything."""
        self.drop_state()
        for held in (self._looks, self._heads, self._stored):
            held.clear()


def spare_copy(model: Any) -> Any | None:
    """A copy of a model, where memory has room for it."""
    num_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    if num_bytes > _SHARE_OF_MEMORY * available_memory():
        _log.info("the model (%.0f MB) is loaded anew for each run", num_bytes / 1e6)
        return None
    return copy.deepcopy(model)
