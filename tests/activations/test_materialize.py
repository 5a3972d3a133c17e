"""Sets built from tokens or from a lower set, read, damaged and mended, equal recomputation."""

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from afcore.activations.codec import round_block, round_hidden
from afcore.activations.feed import HiddenFeed
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import ActivationSet, open_set
from afcore.compute import Compute
from afcore.storage.objects import Storage
from tests.training_setup import CPU_FP32, make_split, make_trainee, new_set

BF16 = Compute(torch.device("cpu"), "bf16")


def make_runner(dtype: Any = "fp32", compute: Compute = CPU_FP32) -> PrefixRunner:
    return PrefixRunner(make_trainee(make_split(), compute=compute, dtype=dtype))


def build(
    storage: Storage,
    runner: PrefixRunner,
    lineage: list[int],
    source: ActivationSet | None = None,
    folder: str | None = None,
) -> ActivationSet:
    name = folder or "-".join(map(str, lineage))
    return materialize(storage, new_set(f"activations/{name}", lineage), runner, source)


def recompute(runner: PrefixRunner, ids: np.ndarray, boundary: int) -> torch.Tensor:
    batch = runner.trainee.inputs(ids)
    runner.split.model.eval()
    with torch.no_grad():
        hidden = runner.split.hidden(
            batch, boundary, rounding=partial(round_block, dtype=runner.dtype)
        )
        states = round_hidden(hidden["hidden_states"], runner.dtype)
    return states * batch["attention_mask"].unsqueeze(-1)


# As batches differ, the last bit of fp32 may; then a value may round the other way, by one step.
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 0.016), ("int8", 0.03)])
def test_cached_and_recomputed_agree(storage: Storage, dtype: Any, tolerance: float) -> None:
    runner = make_runner(dtype)
    feed = HiddenFeed(build(storage, runner, [2]), runner)
    ids = np.asarray([5, 0, 39, 17])
    difference = (feed.batch(ids)["hidden_states"] - recompute(runner, ids, 2)).abs()
    assert float(difference.max()) < tolerance
    assert float((difference > 1e-5).float().mean()) < 0.01
    row = {"fp32": 128, "bf16": 64, "int8": 36}[dtype]
    assert feed.batch_bytes(ids) == runner.lengths[ids].sum() * row


def test_a_set_is_built_from_the_one_below(local_storage: Storage) -> None:
    runner = make_runner()
    lower = build(local_storage, runner, [1])
    upper = build(local_storage, runner, [1, 3], source=lower)
    ids = np.arange(40)
    difference = HiddenFeed(upper, runner).batch(ids)["hidden_states"] - recompute(runner, ids, 3)
    assert float(difference.abs().max()) < 1e-5
    assert upper.manifest.lineage == [1, 3]


@pytest.mark.parametrize("compute", [CPU_FP32, BF16])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_a_set_is_built_from_changes_no_bit(
    local_storage: Storage, dtype: Any, compute: Compute
) -> None:
    runner = make_runner(dtype, compute)
    from_tokens = build(local_storage, runner, [3], folder="from-tokens")
    for boundary in (1, 2):
        lower = build(local_storage, runner, [boundary])
        upper = build(local_storage, runner, [3], lower, folder=f"from-{boundary}")
        assert np.array_equal(upper.read_shard(0), from_tokens.read_shard(0))


def test_in_int8_the_lineage_decides(local_storage: Storage) -> None:
    runner = make_runner("int8")
    through_1 = build(local_storage, runner, [1, 3], build(local_storage, runner, [1]))
    ids = through_1.layout.examples(0)
    assert np.array_equal(through_1.read_shard(0), runner.rows(ids, [1, 3]))
    assert not np.array_equal(through_1.read_shard(0), runner.rows(ids, [3]))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("compute", [CPU_FP32, BF16])
def test_a_damaged_shard_is_computed_again(
    local_storage: Storage, caplog: pytest.LogCaptureFixture, compute: Compute, dtype: Any
) -> None:
    runner = make_runner(dtype, compute)
    found = build(local_storage, runner, [1, 3], source=build(local_storage, runner, [1]))
    ids = np.arange(40)
    before = HiddenFeed(found, runner).batch(ids)["hidden_states"]
    name = found.manifest.shards[0].name
    key = f"{found.folder}/{name}/c/0/0"
    local_storage.put(key, b"torn")
    with caplog.at_level(logging.WARNING):
        after = HiddenFeed(found, runner).batch(ids)["hidden_states"]
    assert name in caplog.text
    assert torch.equal(after, before)
    again = open_set(local_storage, found.folder)
    assert again is not None
    assert again.verify() == []


def test_rows_come_out_in_the_order_asked_for() -> None:
    runner = make_runner()
    ids = np.asarray([7, 2, 31])
    rows = runner.rows(ids, [2])
    one = runner.rows(np.asarray([2]), [2])
    start = runner.lengths[7]
    np.testing.assert_allclose(rows[start : start + len(one)], one, atol=1e-5)
