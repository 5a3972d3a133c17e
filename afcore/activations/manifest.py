"""What an activation set is: the record that makes it one, written last."""

import json
import time
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from afcore.activations.codec import RowFormat
from afcore.activations.shards import Shard
from afcore.compute import HiddenDtype
from afcore.digest import RecipeDigest
from afcore.model.stacks import HIDDEN_STATES

__all__ = ["ActivationManifest", "NewSet"]


@dataclass(frozen=True)
class NewSet:
    """A set that is to be written.

    Attributes:
        folder: where.
        key: the digest of ``recipe``.
        recipe: everything that decides the numbers in it.
        lineage: boundaries at which hidden states are rounded on the way up, its own last.
        producer: the run that writes it.
    """

    folder: str
    key: RecipeDigest
    recipe: dict[str, Any]
    lineage: list[int]
    producer: str

    @property
    def boundary(self) -> int:
        """Its own."""
        return self.lineage[-1]


class ActivationManifest(BaseModel):
    """What a set is, written last.

    See :class:`NewSet`; ``widths`` are those of the tensors in a row (none given: hidden states
    alone), ``hidden_size`` their sum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: int = Field(alias="schema")
    key: RecipeDigest
    boundary: int
    lineage: list[int]
    dtype: HiddenDtype
    hidden_size: int
    num_examples: int
    num_rows: int
    index: str
    index_checksum: str
    shards: list[Shard]
    recipe: dict[str, Any]
    producer: str
    created: float = Field(default_factory=time.time)
    widths: dict[str, int] = {}
    examples: Shard | None = None

    @property
    def format(self) -> RowFormat:
        """Of its rows."""
        return RowFormat(self.dtype, self.widths or {HIDDEN_STATES: self.hidden_size})

    @property
    def entries(self) -> list[Shard]:
        """All arrays that the set is made of."""
        index = Shard(self.index, self.num_examples, self.index_checksum)
        return [index, *([self.examples] if self.examples else []), *self.shards]

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.num_rows for shard in self.shards) * self.format.row_bytes

    @property
    def own_bytes(self) -> int:
        """Bytes of the shards that were written for this set."""
        own = sum(shard.num_rows for shard in self.shards if shard.folder is None)
        return own * self.format.row_bytes

    def to_json(self) -> bytes:
        """As stored."""
        return json.dumps(self.model_dump(by_alias=True), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ActivationManifest":
        """The inverse of :meth:`to_json`."""
        return cls.model_validate(json.loads(data))
