import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from afcore.activations.materialize import PrefixRunner
from afcore.activations.sets import list_sets
from afcore.data.order import epoch_batches
from afcore.measuring.compute import _fit_prefix, _fit_suffix, _Point, profile_compute
from afcore.measuring.fit import fit_seconds
from afcore.measuring.store import probe_bandwidths
from afcore.model.split_model import SplitModel
from afcore.planning.forecast import EpochSetup, Work, forecast_epoch
from afcore.planning.profile import ComputeProfile
from afcore.storage.objects import Storage
from tests.training_setup import NUM_BLOCKS, make_examples, make_split, make_trainee

EXAMPLES = make_examples()
BATCHES = epoch_batches(EXAMPLES.lengths, batch_size=8, seed=0, epoch=1, batching="grouped")


def measured(split: SplitModel, budget_seconds: float = 0.0) -> ComputeProfile:
    return profile_compute(
        make_trainee(split, EXAMPLES),
        BATCHES,
        max_grad_norm=1.0,
        budget_seconds=budget_seconds,
    )


def test_every_part_is_measured_and_the_training_is_left_alone() -> None:
    split = make_split()
    split.set_training(2)
    before = copy.deepcopy(split.model.state_dict())
    trained = [parameter.requires_grad for parameter in split.model.parameters()]
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)

    found = measured(split, budget_seconds=0.2)

    assert torch.equal(torch.rand(3), wanted)
    assert trained == [parameter.requires_grad for parameter in split.model.parameters()]
    assert all(parameter.grad is None for parameter in split.model.parameters())
    for name, tensor in split.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert found.num_blocks == NUM_BLOCKS
    assert found.num_parameters == sorted(found.num_parameters, reverse=True)
    assert found.num_parameters[0] == sum(p.numel() for p in split.model.parameters())
    times = found.model_dump(exclude={"num_parameters"})
    assert min(times.values()) >= 0
    assert found.update > 0
    assert found.statistics > 0
    assert found.suffix_step + found.suffix_token + found.suffix_block_token > 0
    assert found.prefix_step + found.prefix_token + found.prefix_block_token > 0
    assert found.inference_token + found.inference_block_token > 0


def test_without_a_budget_one_batch_is_enough() -> None:
    assert measured(make_split()).num_blocks == NUM_BLOCKS


def test_the_fit_finds_what_made_the_times() -> None:
    points = [
        _Point(
            k, tokens, 0.01 + tokens * (1e-5 + 2e-4 * k), 0.02 + tokens * (9e-5 + 6e-4 * (3 - k))
        )
        for k in (0, 1, 2, 3)
        for tokens in (100, 300, 900)
    ]
    slow_embeddings = [
        point if point.boundary else _Point(0, point.padded_tokens, 0.0, point.suffix_seconds + 0.5)
        for point in points
    ]
    suffix = _fit_suffix(slow_embeddings, 4)
    assert list(suffix.values()) == pytest.approx([0.02, 9e-5, 6e-4, 0.5], rel=1e-3)
    prefix = _fit_prefix([point for point in points if point.boundary])
    assert list(prefix.values()) == pytest.approx([0.01, 1e-5, 2e-4], rel=1e-3)


def test_a_step_that_was_held_up_hardly_counts() -> None:
    rows = [[1.0, float(tokens)] for tokens in range(100, 1000, 100)]
    seconds = [0.1 + tokens / 1000 for _, tokens in rows]
    seconds[4] *= 5
    step, token = fit_seconds(rows, seconds)
    assert step + 500 * token == pytest.approx(0.6, rel=0.05)


def test_no_term_is_negative() -> None:
    assert min(fit_seconds([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]], [1.0, 3.0, 5.0])) >= 0


@pytest.mark.parametrize("probe_bytes", [0, 2000, 2**20])
def test_the_probe_measures_and_leaves_nothing(storage: Storage, probe_bytes: int) -> None:
    runner = PrefixRunner(make_trainee(make_split(), EXAMPLES))
    found = probe_bandwidths(storage, "activations", runner, BATCHES, probe_bytes=probe_bytes)
    assert min(found.store_write, found.store_read, found.store_latency_seconds) > 0
    assert set(found.tiers) == {"host memory"}
    assert min(found.tiers.values()) > 0
    assert list_sets(storage) == []
    assert storage.list("activations") == {}


def test_a_deeper_boundary_is_never_predicted_to_take_longer_above_it() -> None:
    found = measured(make_split())
    work = replace(Work.of(EXAMPLES.lengths, BATCHES, 64), statistics=True)
    profile = probe_free(found)
    suffixes = [
        forecast_epoch(profile, work, EpochSetup(boundaries=[k])).suffix_seconds
        for k in range(NUM_BLOCKS)
    ]
    assert suffixes == sorted(suffixes, reverse=True)
    assert np.isfinite(suffixes).all()


def probe_free(compute: ComputeProfile) -> object:
    from afcore.planning.profile import Bandwidths, Profile

    speeds = Bandwidths(
        shard_bytes=1, store_latency_seconds=0, store_write=1, store_read=1, tiers={"x": 1}
    )
    return Profile(compute=compute, bandwidths=speeds, seconds=0)
