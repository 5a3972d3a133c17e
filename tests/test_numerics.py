"""Numbers of each room, pinned, so that nobody changes them without raising the room's version.

When this fails and the change is meant: raise the room's version in ``afcore/numerics.py`` and pin
the new numbers here, in the same commit. When it is not meant, it is a bug.
"""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from afcore.activations.codec import round_hidden
from afcore.data.pictures import Picture
from afcore.data.split import held_out, sampled
from afcore.freezing.gradient_norm import GradientNorm
from afcore.numerics import NUMERICS
from tests.training_setup import (
    TASK,
    grouped_batches,
    make_examples,
    make_split,
    make_state,
    run_epochs,
)

_ORIENTATION = 0x0112
TEXTS = [f"text {i}" for i in range(40)]


def data() -> list[float]:
    """Rows that validate, rows of a sample, the first batches of an epoch."""
    batches = grouped_batches(make_examples(), 1)[:2]
    chosen = [np.flatnonzero(held_out(TEXTS, 0.1)), sampled(TEXTS, 4), *batches]
    return [float(i) for ids in chosen for i in ids]


def pictures() -> list[float]:
    """A gray one of 16 bits that lies on its side, as it is opened."""
    file, on_side = io.BytesIO(), Image.Exif()
    on_side[_ORIENTATION] = 6
    gray = Image.fromarray(np.asarray([[0, 300, 40000], [65535, 1000, 128]], dtype=np.uint16))
    gray.save(file, "PNG", exif=on_side)
    opened = Picture("digest", content=file.getvalue()).open()
    return [float(value) for value in np.asarray(opened)[..., 0].flatten()]


def model() -> list[float]:
    """Logits of three examples."""
    split = make_split()
    split.model.eval()
    batch = TASK.collate(make_examples(), np.arange(3), torch.device("cpu"))[0]
    with torch.no_grad():
        return [float(value) for value in split.logits(batch).flatten()]


def activations() -> list[float]:
    """One hidden state as each type gives it back."""
    hidden = torch.tensor([[0.1234567, -1.7654321, 3.1415926, -0.0004321]])
    return [float(v) for dtype in ("bf16", "int8", "fp32") for v in round_hidden(hidden, dtype)[0]]


def training() -> list[float]:
    """Two epochs with dropout, clipping and decay: some losses, and how far parts moved."""
    state, before = make_state(make_split()), make_split()
    done = run_epochs(state, make_examples(), 2)
    losses = [step.loss for epoch in done for step in (epoch.steps[0], epoch.steps[-1])]
    after = state.split
    moved = [
        sum(
            float((after.part_tensors(part)[name] - tensor).abs().sum())
            for name, tensor in before.part_tensors(part).items()
        )
        for part in ("embeddings", "block.000", "block.003", "head")
    ]
    return losses + moved


def freezing() -> list[float]:
    """Boundaries that the paper's rule takes, and what it looked at last."""
    done = run_epochs(make_state(make_split()), make_examples(), 3, GradientNorm())
    decisions = [i.decision for epoch in done for i in epoch.intervals if i.decision is not None]
    assert decisions
    return [float(d.boundary_after) for d in decisions] + [decisions[0].threshold]


PINNED: dict[str, tuple[int, Any, list[float]]] = {
    "data": (
        1,
        data,
        [11, 15, 0, 18, 28, 37, 31, 8, 3, 20, 4, 37, 24, 39, 16, 13, 22, 10, 15, 29, 21, 28],
    ),
    "pictures": (1, pictures, [255, 0, 4, 1, 0, 156]),
    "model": (
        1,
        model,
        [
            0.016610,
            -0.008549,
            0.017170,
            0.001202,
            -0.013320,
            -0.000901,
            0.016914,
            -0.008137,
            0.004913,
        ],
    ),
    "activations": (
        1,
        activations,
        [
            0.123535,
            -1.765625,
            3.140625,
            -0.000433,
            0.123685,
            -1.756323,
            3.141593,
            0.0,
            0.123457,
            -1.765432,
            3.141593,
            -0.000432,
        ],
    ),
    "training": (
        1,
        training,
        [1.09718, 1.102196, 1.092329, 1.099944, 5.484912, 20.086586, 19.211542, 2.965547],
    ),
    "freezing": (1, freezing, [0.0, 0.0, 2.0, 2.0, 2.0, 0.261414]),
}


@pytest.mark.parametrize("room", PINNED)
def test_numbers_change_only_with_their_version(room: str) -> None:
    version, compute, numbers = PINNED[room]
    assert NUMERICS[room] == version, f"the numbers of {room} have a new version: pin them here"
    assert compute() == pytest.approx(numbers, rel=1e-3, abs=1e-5), (
        f"{room} computes other numbers: raise NUMERICS[{room!r}] in afcore/numerics.py"
    )


def test_every_room_that_computes_is_pinned() -> None:
    # The Trainer's numbers are pinned to ours by tests/peer.
    assert NUMERICS.keys() - PINNED.keys() == {"peer"}
