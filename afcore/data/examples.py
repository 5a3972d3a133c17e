"""Tokenized examples as named ragged columns, and batches of them padded on the right.

Example ``i`` of a ragged column has the values ``values[offsets[i]:offsets[i + 1]]``; of another
one, ``values[i]``. ``i`` is its id for ever.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.compute import to_device
from afcore.data.tensor_file import bytes_of, tensor_pieces, view_tensors
from afcore.digest import ContentDigest

__all__ = ["Column", "Examples", "padded"]

_KINDS = ("inputs", "targets", "references")


@dataclass(frozen=True)
class Column:
    """One value, or a row of values, for each of ``n`` examples.

    Attributes:
        values: [n, ...], or [t, ...] of all examples together.
        offsets: [n + 1] int64, where each example's values begin; None: one value an example.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def row(self, number: int) -> npt.NDArray[Any]:
        """The values of an example of a ragged column."""
        assert self.offsets is not None
        values: npt.NDArray[Any] = self.values[self.offsets[number] : self.offsets[number + 1]]
        return values

    def pick(self, ids: npt.NDArray[np.int64]) -> "Column":
        """That of some of the examples."""
        if self.offsets is None:
            return Column(self.values[ids])
        starts, lengths = self.offsets[ids], np.diff(self.offsets)[ids]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Column(self.values[at], offsets)

    @classmethod
    def of(cls, rows: list[list[int]], dtype: Any = np.int32) -> "Column":
        """A ragged one."""
        return cls(
            np.concatenate([np.asarray(row, dtype=dtype) for row in rows]),
            np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        )

    @classmethod
    def of_texts(cls, texts: list[str]) -> "Column":
        """Texts, as the bytes of their UTF-8."""
        return cls.of([list(text.encode()) for text in texts], np.uint8)

    def texts(self) -> list[str]:
        """From :meth:`of_texts`."""
        assert self.offsets is not None
        ends = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [self.values[start:end].tobytes().decode() for start, end in ends]


@dataclass(frozen=True)
class Examples:
    """One split.

    Attributes:
        inputs: what the model gets of an example, by the names of its parameters. The first says
            how long an example is.
        targets: what it should answer: what the loss is computed from.
        references: what answers are held against or read by, beside that: texts, say. Neither the
            model nor the loss gets them.
        rows: [n] row of the source that each example is of, ascending; None: one example a row.
        drawn: [m] ids of those that are trained on, ascending, where the others are there only so
            that several trainings have all examples in common; None: all.
        fixed_length: hidden states of an example, where its inputs are no sequences (an image's
            patches); None: the length of the first input.
    """

    inputs: Mapping[str, Column]
    targets: Mapping[str, Column] = field(default_factory=dict)
    fixed_length: int | None = None
    references: Mapping[str, Column] = field(default_factory=dict)
    rows: npt.NDArray[np.int64] | None = None
    drawn: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self._first)

    @property
    def _first(self) -> Column:
        return next(iter(self.inputs.values()))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] int64, hidden states of each example at a boundary: one a token."""
        if self.fixed_length is not None:
            return np.full(len(self), self.fixed_length, dtype=np.int64)
        assert self._first.offsets is not None
        return np.diff(self._first.offsets)

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return len(self) if self.rows is None else int(self.rows[-1]) + 1

    def of_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ids of the examples of some rows, ascending."""
        return rows if self.rows is None else np.flatnonzero(np.isin(self.rows, rows))

    @property
    def num_trained(self) -> int:
        """Of those that are trained on."""
        return len(self) if self.drawn is None else len(self.drawn)

    @property
    def trained(self) -> "Examples":
        """Those that are trained on, alone."""
        return self if self.drawn is None else self.pick(self.drawn)

    def pick(self, ids: npt.NDArray[np.int64]) -> "Examples":
        """Some of the examples, by their ids, ascending; rows are numbered anew."""
        columns: dict[str, Any] = {
            kind: {name: column.pick(ids) for name, column in getattr(self, kind).items()}
            for kind in _KINDS
        }
        rows = None
        if self.rows is not None:
            rows = np.unique(self.rows[ids], return_inverse=True)[1].astype(np.int64)
        return replace(self, **columns, rows=rows, drawn=None)

    @cached_property
    def digest(self) -> ContentDigest:
        """Names what the model gets, not the targets."""
        content = hashlib.sha256()
        for name, column in self.inputs.items():
            content.update(name.encode())
            content.update(bytes_of(column.values))
            if column.offsets is not None:
                content.update(bytes_of(column.offsets))
        return ContentDigest(content.hexdigest())

    @cached_property
    def example_digests(self) -> npt.NDArray[np.uint64]:
        """[n, 2], names what the model gets of each example."""
        names = [name.encode() for name in self.inputs]
        found = bytearray()
        for number in range(len(self)):
            content = hashlib.blake2b(digest_size=16)
            for name, column in zip(names, self.inputs.values(), strict=True):
                values = column.values[number] if column.offsets is None else column.row(number)
                content.update(b"%s %d " % (name, values.nbytes))
                content.update(bytes_of(values))
            found += content.digest()
        return np.frombuffer(bytes(found), dtype=np.uint64).reshape(-1, 2)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """As safetensors, in pieces that are not copied; :meth:`decode` gives it back."""
        tensors = {}
        for kind in _KINDS:
            columns: Mapping[str, Column] = getattr(self, kind)
            # Numbered: safetensors sorts by name, and the first input matters.
            for number, (name, column) in enumerate(columns.items()):
                key = f"{kind}/{number:02d}/{name}"
                # safetensors writes a view's memory as it lies.
                tensors[f"{key}/values"] = np.ascontiguousarray(column.values)
                if column.offsets is not None:
                    tensors[f"{key}/offsets"] = column.offsets
        if self.fixed_length is not None:
            tensors["fixed_length"] = np.asarray([self.fixed_length])
        if self.rows is not None:
            tensors["rows"] = self.rows
        yield from tensor_pieces(tensors)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Examples":
        """From :meth:`pieces`; the columns are views of ``data``, which may be a mapped file."""
        tensors = view_tensors(data)
        columns: dict[str, dict[str, Column]] = {kind: {} for kind in _KINDS}
        for key in sorted(key for key in tensors if key.endswith("/values")):
            kind, _, name, _ = key.split("/")
            offsets = tensors.get(key.removesuffix("values") + "offsets")
            columns[kind][name] = Column(tensors[key], offsets)
        length = int(tensors["fixed_length"][0]) if "fixed_length" in tensors else None
        inputs, targets, references = (columns[kind] for kind in _KINDS)
        return cls(inputs, targets, length, references, tensors.get("rows"))


def padded(
    column: Column, ids: npt.NDArray[np.int64], fill: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Some examples of a column as one tensor, padded on the right to the longest of them.

    Args:
        column: of the split.
        ids: [b] example ids.
        fill: what padding holds.
        device: where the tensors go.

    Returns:
        [b, s, ...], integers as int64; and the mask, [b, s] int64, 1 where an example has a value.
        Of a column that is not ragged, [b, ...] and None.
    """
    if column.offsets is None:
        return to_device(torch.from_numpy(_wide(column.values[ids])), device), None
    starts, ends = column.offsets[ids], column.offsets[ids + 1]
    position = np.arange(int((ends - starts).max()))
    mask = position < (ends - starts)[:, None]
    # All at once: columns behind the last value of all are padding, and read the last one.
    at = np.minimum(starts[:, None] + position, len(column.values) - 1)
    values = _wide(np.where(mask, column.values[at], fill))
    return (
        to_device(torch.from_numpy(values), device),
        to_device(torch.from_numpy(mask.astype(np.int64)), device),
    )


def _wide(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(np.int64, copy=False) if values.dtype.kind in "iu" else values
