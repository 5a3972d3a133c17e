import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from afcore.activations.materialize import PrefixRunner
from afcore.activations.sets import list_sets
from afcore.data.order import epoch_batches
from afcore.measuring import step_seconds
from afcore.measuring.least_squares import fit_terms
from afcore.measuring.step_seconds import _fit_prefix, _fit_suffix, _Point, measure_steps
from afcore.measuring.store_speed import probe_bandwidths
from afcore.model.split_model import SplitModel
from afcore.planning.forecast import EpochSetup, Work, forecast_epoch
from afcore.planning.profile import ComputeProfile
from afcore.storage.objects import Storage
from afcore.trainee import Trainee
from afcore.training.progress import Progress, watch_progress
from afcore.training.steps import StepSettings
from tests.training_setup import NUM_BLOCKS, left_alone, make_examples, make_split, make_trainee

EXAMPLES = make_examples()
BATCHES = epoch_batches(EXAMPLES.lengths, batch_size=8, seed=0, epoch=1, batching="grouped")


def measured(split: SplitModel, budget_seconds: float = 0.0, **settings: Any) -> ComputeProfile:
    return measure_steps(
        make_trainee(split, EXAMPLES),
        BATCHES,
        StepSettings(**settings),
        budget_seconds=budget_seconds,
    )


def test_nobody_is_told_of_a_measurement_as_if_it_were_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "afcore")
    moments: list[Progress] = []
    with watch_progress(moments.append):
        measured(make_split())
    assert moments == []


def test_every_part_is_measured_and_the_training_is_left_alone() -> None:
    split = make_split()
    split.set_training(2)
    with left_alone(split):
        found = measured(split, budget_seconds=0.2)
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


def watched(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int | None], bool]
) -> list[tuple[int, int | None]]:
    """(boundary, micro-batch) of all steps that are tried; ``fails``: there is no memory for it."""
    tried = []

    def train(trainee: Trainee, state: Any, batches: Any, course: Any, settings: Any) -> Any:
        tried.append((state.freeze.boundary, settings.micro_batch))
        if fails(*tried[-1]):
            raise torch.OutOfMemoryError
        return real(trainee, state, batches, course, settings)

    real = step_seconds.train_epoch
    monkeypatch.setattr(step_seconds, "train_epoch", train)
    return tried


def test_no_second_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    split, trained = make_split(), set()
    places = [parameter.data_ptr() for parameter in split.model.parameters()]
    real = step_seconds.train_epoch

    def train(trainee: Trainee, *arguments: Any) -> Any:
        trained.add(id(trainee.split))
        return real(trainee, *arguments)

    monkeypatch.setattr(step_seconds, "train_epoch", train)
    measured(split)
    assert trained == {id(split)}
    assert places == [parameter.data_ptr() for parameter in split.model.parameters()]


def test_passes_are_cut_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = watched(monkeypatch, lambda _, size: size is None or size > 2)
    assert measured(make_split()).num_blocks == NUM_BLOCKS
    assert tried[:4] == [(0, None), (0, 4), (0, 2), (0, 2)]
    assert {size for _, size in tried[3:]} == {2}


def test_a_boundary_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = watched(monkeypatch, lambda boundary, _: boundary == 0)
    found = measured(make_split(), micro_batch=1)
    assert tried[:2] == [(0, 1), (1, 1)]
    assert 0 not in {boundary for boundary, _ in tried[1:]}
    assert found.update > 0
    assert found.suffix_step + found.suffix_token + found.suffix_block_token > 0
    assert found.suffix_embeddings == 0


def test_what_fits_nowhere_is_an_error_and_the_model_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = make_split()
    split.set_training(1)
    before = copy.deepcopy(split.model.state_dict())
    trained = [parameter.requires_grad for parameter in split.model.parameters()]

    def fails(*_: object) -> bool:
        with torch.no_grad():
            for parameter in split.model.parameters():
                parameter.add_(1.0)
        return True

    tried = watched(monkeypatch, fails)
    with pytest.raises(torch.OutOfMemoryError):
        measured(split)
    assert [boundary for boundary, size in tried if size == 1] == [0, 1, 2, 3]
    assert all(torch.equal(t, before[name]) for name, t in split.model.state_dict().items())
    assert trained == [parameter.requires_grad for parameter in split.model.parameters()]


def test_without_a_budget_one_batch_is_enough() -> None:
    assert measured(make_split()).num_blocks == NUM_BLOCKS


def test_the_fit_finds_what_made_the_times() -> None:
    points = [
        _Point(
            k,
            tokens,
            passes,
            0.01 + tokens * (1e-5 + 2e-4 * k),
            0.02 * passes + tokens * (9e-5 + 6e-4 * (3 - k)),
        )
        for k in (0, 1, 2, 3)
        for tokens, passes in ((100, 1), (300, 2), (900, 3))
    ]
    slow_embeddings = [
        point
        if point.boundary
        else replace(point, suffix_seconds=point.suffix_seconds + 0.5 * point.num_passes)
        for point in points
    ]
    suffix = _fit_suffix(slow_embeddings, 4)
    assert list(suffix.values()) == pytest.approx([0.02, 9e-5, 6e-4, 0.5], rel=1e-3)
    prefix = _fit_prefix([point for point in points if point.boundary])
    assert list(prefix.values()) == pytest.approx([0.01, 1e-5, 2e-4], rel=1e-3)


def test_a_step_that_was_held_up_hardly_counts() -> None:
    tokens = range(100, 1000, 100)
    seconds = [0.1 + count / 1000 for count in tokens]
    seconds[4] *= 5
    found = fit_terms({"step": [1.0] * 9, "token": tokens}, seconds)
    assert found["step"] + 500 * found["token"] == pytest.approx(0.6, rel=0.05)


def test_no_term_is_negative() -> None:
    found = fit_terms({"step": [1.0] * 3, "token": [1.0, 2.0, 3.0]}, [1.0, 3.0, 5.0])
    assert min(found.values()) >= 0


@pytest.mark.parametrize("probe_bytes", [0, 2000, 2**20])
def test_the_probe_measures_and_leaves_nothing(storage: Storage, probe_bytes: int) -> None:
    runner = PrefixRunner(make_trainee(make_split(), EXAMPLES))
    found = probe_bandwidths(storage, "activations", runner, BATCHES, probe_bytes=probe_bytes)
    assert min(found.store_write, found.store_read, found.store_latency_seconds) > 0
    assert found.memory_read > 0
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
        shard_bytes=1, store_latency_seconds=0, store_write=1, store_read=1, memory_read=1
    )
    return Profile(compute=compute, bandwidths=speeds, seconds=0)
