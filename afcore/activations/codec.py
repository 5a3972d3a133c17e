"""How one token's hidden state is kept: rounding, encoding and decoding, in numpy and torch.

A **stored row** is what a shard holds of one token, ``w`` items wide:

=======  ========  ==========  ====================================================
dtype    items     ``w``       a row of ``h`` hidden values
=======  ========  ==========  ====================================================
fp32     float32   ``h``       themselves
bf16     uint16    ``h``       the upper 16 bits of each, rounded to nearest even
int8     uint8     ``h + 4``   ``round(x / s)`` of each as int8, then ``s`` as fp32
=======  ========  ==========  ====================================================

int8 is symmetric, one scale a token: ``s = max|x| / 127``, so a value is off by at most ``s / 2``.

Two roundings, both the same whether hidden states are read or recomputed:

* :func:`round_block` after **every** frozen block. So what comes out of block ``k`` does not
  depend on where the pass began: from tokens, or from a set at any lower boundary.
* :func:`round_hidden` at the boundary: exactly what a stored row gives back.

Where a model hands on more than one tensor, a stored row holds that of each, one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.compute import HiddenDtype
from afcore.model.forwards import Hidden

__all__ = [
    "STORED_AS",
    "RowFormat",
    "as_hidden",
    "as_stored",
    "canonical_lineage",
    "lineages_below",
    "round_block",
    "round_boundary",
    "round_hidden",
    "row_width",
]

STORED_AS: dict[HiddenDtype, Any] = {"bf16": np.uint16, "fp32": np.float32, "int8": np.uint8}
_LARGEST = 127
_SCALE_BYTES = 4


def row_width(hidden_size: int, dtype: HiddenDtype) -> int:
    """``w``: items of a stored row."""
    return hidden_size + _SCALE_BYTES if dtype == "int8" else hidden_size


def as_stored(hidden: Tensor, dtype: HiddenDtype) -> Tensor:
    """Encode hidden states.

    Args:
        hidden: [..., h] of any floating type, on any device.
        dtype: as kept.

    Returns:
        [..., w] uint16, float32 or uint8, on the same device; ``.cpu().numpy()`` goes to a shard.
    """
    if dtype == "fp32":
        return hidden.float()
    if dtype == "bf16":
        return hidden.to(torch.bfloat16).view(torch.uint16)
    hidden = hidden.float()
    scale = hidden.abs().amax(-1, keepdim=True) / _LARGEST
    # A row of zeros has scale 0; any divisor gives its zeros.
    steps = (hidden / scale.where(scale > 0, 1.0)).round_().clamp_(-_LARGEST, _LARGEST)
    return torch.cat([steps.to(torch.int8).view(torch.uint8), scale.view(torch.uint8)], dim=-1)


def as_hidden(rows: npt.NDArray[Any] | Tensor, dtype: HiddenDtype) -> Tensor:
    """Decode stored rows; rows of zeros, as padding is, give zeros.

    Args:
        rows: [..., w] as :func:`as_stored` gives them; a tensor may be on any device.
        dtype: as kept.

    Returns:
        [..., h] float32, on the device of ``rows``; with fp32 it shares their memory.
    """
    stored = rows if isinstance(rows, Tensor) else torch.from_numpy(rows)
    if dtype == "fp32":
        return stored
    if dtype == "bf16":
        return stored.view(torch.bfloat16).float()
    width = stored.shape[-1] - _SCALE_BYTES
    # A copy, as fp32 must lie at a multiple of four bytes.
    scale = stored[..., width:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return stored[..., :width].view(torch.int8) * scale


def round_hidden(hidden: Tensor, dtype: HiddenDtype) -> Tensor:
    """Hidden states as a stored row gives them back: [..., h] float32."""
    return as_hidden(as_stored(hidden, dtype), dtype)


def round_boundary(hidden: Hidden, dtype: HiddenDtype) -> Hidden:
    """:func:`round_hidden` of each of the tensors at a boundary."""
    return {name: round_hidden(values, dtype) for name, values in hidden.items()}


def round_block(hidden: Tensor, dtype: HiddenDtype) -> Tensor:
    """What a frozen block puts out, as the next one gets it: [..., h] float32.

    Rounded to bf16 where sets are kept in bf16 or int8. Not to int8: its error is some ten times
    larger, and would add up over the blocks.
    """
    return hidden.float() if dtype == "fp32" else round_hidden(hidden, "bf16")


@dataclass(frozen=True)
class RowFormat:
    """What the stored rows of a set hold.

    Attributes:
        dtype: as kept.
        widths: of the tensors at a boundary, by name, in their order in a row.
    """

    dtype: HiddenDtype
    widths: Mapping[str, int]

    @property
    def width(self) -> int:
        """``w``: items of a row."""
        return sum(row_width(width, self.dtype) for width in self.widths.values())

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * int(np.dtype(STORED_AS[self.dtype]).itemsize)

    def encode(self, hidden: Hidden) -> Tensor:
        """[..., w] stored rows; see :func:`as_stored`."""
        stored = [as_stored(hidden[name], self.dtype) for name in self.widths]
        return stored[0] if len(stored) == 1 else torch.cat(stored, dim=-1)

    def decode(self, rows: npt.NDArray[Any] | Tensor) -> Hidden:
        """The inverse of :meth:`encode`, float32; see :func:`as_hidden`."""
        stored = rows if isinstance(rows, Tensor) else torch.from_numpy(rows)
        parts = stored.split([row_width(w, self.dtype) for w in self.widths.values()], dim=-1)
        return {n: as_hidden(part, self.dtype) for n, part in zip(self.widths, parts, strict=True)}


def canonical_lineage(lineage: list[int], dtype: HiddenDtype) -> list[int]:
    """What of a lineage decides the numbers of a set.

    Args:
        lineage: boundaries of the sets that it goes back to, bottom first, its own last.
        dtype: as kept.

    Returns:
        Its own boundary alone where rounding after every block has made the way up immaterial;
        in int8 all of them.
    """
    return lineage if dtype == "int8" else lineage[-1:]


def lineages_below(lineage: list[int], dtype: HiddenDtype) -> list[list[int]]:
    """Canonical lineages of the sets from which one may be built, bit by bit; highest first."""
    if dtype == "int8":
        return [lineage[:size] for size in range(len(lineage) - 1, 0, -1)]
    return [[boundary] for boundary in range(lineage[-1] - 1, 0, -1)]
