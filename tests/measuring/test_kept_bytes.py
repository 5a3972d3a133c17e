import itertools
from typing import Any

import numpy as np
import pytest
import torch

from afcore.compute import Compute
from afcore.data.examples import Column, Examples
from afcore.measuring.kept_bytes import kept_bytes
from afcore.model.split_model import SplitModel
from tests.training_setup import NUM_BLOCKS, left_alone, make_split, make_trainee


def examples(longest: int) -> Examples:
    ids = Column.of([[3] * 4, [5] * longest, [7] * 2])
    return Examples({"input_ids": ids}, {"labels": Column(np.asarray([0, 1, 0]))})


def kept(split: SplitModel, longest: int = 16, **given: Any) -> list[int]:
    return kept_bytes(make_trainee(split, examples(longest)), **{"checkpoints": False, **given})


def test_what_is_kept_falls_with_the_boundary_and_the_model_is_left_alone() -> None:
    split = make_split()
    split.set_training(2)
    with left_alone(split):
        found = kept(split)
    assert len(found) == NUM_BLOCKS
    assert found == sorted(found, reverse=True)
    steps = {above - below for above, below in itertools.pairwise(found[1:])}
    assert max(steps) - min(steps) <= 1, "a block is like another"


def test_a_linear_layer_keeps_what_goes_into_it() -> None:
    """By hand, of a model whose blocks do nothing but multiply."""
    split = make_split(dropout=0.0, pool=False)
    for block in split.blocks:
        layer = block.attention.output.dense
        block.forward = lambda states, *_args, layer=layer, **_kwargs: layer(states)
    found = kept(split, 16)
    assert found[1] - found[2] == 16 * 32 * 4


def test_attention_with_dropout_keeps_a_matrix_of_all_pairs() -> None:
    """On a CPU, which no formula of the width would know of."""
    block: dict[tuple[float, int], float] = {}
    for dropout in (0.0, 0.1):
        for length in (16, 32):
            found = kept(make_split(dropout=dropout), length)
            block[dropout, length] = found[1] - found[2]
    assert block[0.0, 32] == pytest.approx(2 * block[0.0, 16], rel=0.01)
    assert block[0.1, 32] > 2.1 * block[0.1, 16]


def test_copies_of_weights_in_16_bits_are_not_an_examples() -> None:
    split = make_split(dropout=0.0, pool=False)
    in_16_bits = Compute(torch.device("cpu"), "bf16")
    for block in split.blocks:
        layer = block.attention.output.dense
        block.forward = lambda states, *_args, layer=layer, **_kwargs: layer(states)
    found = kept_bytes(make_trainee(split, examples(16), compute=in_16_bits), checkpoints=False)
    assert found[1] - found[2] == 16 * 32 * 2


def test_checkpoints_keep_what_goes_into_a_block_and_one_block() -> None:
    split = make_split()
    plain, found = kept(split), kept(split, checkpoints=True)
    assert found[1] - found[2] == 16 * 32 * 4
    assert found[0] < plain[0]
    assert found[-1] == plain[-1], "the last block runs at one position"
