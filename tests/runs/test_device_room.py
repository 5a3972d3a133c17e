"""What a run takes of a GPU and from where its sets are read; no GPU is needed to say it."""

from typing import Any

import pytest
import torch

from afcore.activations.layout import SHARD_BYTES
from afcore.activations.residency import Residency, measure_budgets
from afcore.activations.tiers import Budgets
from afcore.compute import Compute
from afcore.config import parse_config
from afcore.planning.profile import Reading
from afcore.runs import device_room
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.storage.objects import Storage

CUDA = torch.device("cuda", 0)


@pytest.fixture
def run(tiny_config: dict[str, Any]) -> Run:
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    return Run(storage, identify_run(config, storage))


def with_changes(run: Run, **changes: Any) -> Run:
    changed = run.record.model_copy(update={"config": run.config.replace(**changes)})
    return Run(run.storage, changed)


@pytest.mark.parametrize(
    ("changes", "examples"),
    [
        ({}, 8),
        ({"workers.micro_batch": 3}, 3),
        ({"workers.max": 4}, 2),
        ({"workers.max": 4, "workers.min": 2, "mode": "performance"}, 4),
    ],
)
def test_training_takes_all_parameters_and_the_largest_share_of_a_batch(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], examples: int
) -> None:
    num_parameters = sum(p.numel() for p in run.pretrained().model.parameters())
    assert device_room.training_bytes(run) == 0
    monkeypatch.setattr(Run, "compute", Compute(CUDA, "bf16"))
    # 16 bytes a parameter; 4 blocks of 34 x 32 bytes a token, 32 tokens an example.
    expected = 16 * num_parameters + examples * 32 * 4 * 34 * 32
    assert device_room.training_bytes(with_changes(run, **changes)) == expected


def test_memory_falls_with_what_trains_and_has_the_process_on_a_cpu(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, kept = [1000, 800, 500, 100], [4000, 3000, 100, 10]
    process = 550 * 2**20
    expected = [
        # Weights of all, moments of what trains; with it gradients and what a step keeps of eight
        # examples, or the copy that is committed, whichever is more.
        4 * 1000 + 8 * count + max(4 * count + 8 * of_one, 12 * count) + process
        for count, of_one in zip(trained, kept, strict=True)
    ]
    assert 12 * trained[2] > 4 * trained[2] + 8 * kept[2]
    assert device_room.memory_by_boundary(run, trained, kept, 10**6) == expected
    monkeypatch.setattr(Run, "compute", Compute(CUDA, "bf16"))
    on_gpu = [
        4 * 1000 + 12 * count + 8 * of_one for count, of_one in zip(trained, kept, strict=True)
    ]
    assert device_room.memory_by_boundary(run, trained, kept, 10**6) == on_gpu


def test_the_device_tier_leaves_what_training_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10)  # by this process
    assert measure_budgets(Residency(CUDA)).device_bytes == 40
    assert measure_budgets(Residency(CUDA, needed_bytes=60)).device_bytes == 10
    assert measure_budgets(Residency(CUDA, True, 33, needed_bytes=60)).device_bytes == 33


def test_what_no_memory_holds_is_streamed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    three = 3 * SHARD_BYTES
    assert device_room.place_set(run, three) == Reading(three, store_bytes=0)
    for budgets, streamed in (
        (Budgets(SHARD_BYTES, 2 * SHARD_BYTES, 0), 0),
        (Budgets(SHARD_BYTES, 0, three), 2 * SHARD_BYTES),
    ):
        monkeypatch.setattr(device_room, "measure_budgets", lambda *_, of=budgets, **__: of)
        assert device_room.place_set(run, three) == Reading(three, store_bytes=streamed)
