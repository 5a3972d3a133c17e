"""What runs of one process open once, and that no number changes by it."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from torch import nn

import afcore.runs.common_inputs as module
from afcore.config import Config, parse_config
from afcore.digest import ContentDigest, RecipeDigest, content_digest
from afcore.runs import run as run_module
from afcore.runs import state as state_module
from afcore.runs.checkpoint import part_key
from afcore.runs.common_inputs import CommonInputs, LookedAt, spare_copy
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run, find_run
from afcore.search.trial_run import train_member
from afcore.storage.objects import Storage

FROZEN = ["embeddings", "block.000"]


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2, "stop": "never"}
    tiny_config["data"] |= {"limit": 120, "test_limit": 20}
    tiny_config["freezing"] = {"policy": "frozen_start", "depth": 1}
    return parse_config(tiny_config, source="test")


def train(config: Config, inputs: CommonInputs | None = None) -> Run:
    storage = Storage(config.store)
    member = train_member(config, storage, config.main_score, None, None, lambda _: True, inputs)
    run = find_run(storage, member.run_id)
    assert run is not None
    return run


def checkpoint(run: Run, epoch: int) -> CheckpointRecord:
    record = record_of(run, epoch, CheckpointRecord)
    assert record is not None
    return record


def numbers(run: Run) -> list[Any]:
    """All that was trained: weights and moments by their digests, losses, scores."""
    records = [checkpoint(run, epoch) for epoch in (1, 2)]
    return [
        (one.parts, one.trained.validation, [step.loss for step in one.trained.steps])
        for one in records
    ]


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pre-trained models that are loaded from now on."""
    loaded: list[str] = []
    load_model = run_module.load_model

    def load(name: str, *arguments: Any, **settings: Any) -> Any:
        loaded.append(name)
        return load_model(name, *arguments, **settings)

    monkeypatch.setattr(run_module, "load_model", load)
    return loaded


@pytest.mark.parametrize(
    ("changes", "boundaries"),
    [
        ({}, [1, 0]),  # thaws after an epoch in which nothing was learned
        ({"freezing": {"policy": "linear", "intervals_per_epoch": 2}}, [0, 1, 2]),
        ({"adapter": {"kind": "lora", "rank": 2, "alpha": 4}}, [1, 0]),
    ],
)
def test_runs_that_share_what_they_open_train_as_each_alone(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    boundaries: list[int],
) -> None:
    config = config.replace(**changes)
    rates = [1e-3, 3e-3]
    alone = []
    for number, rate in enumerate(rates):
        one = {"training.learning_rate": rate, "store": str(tmp_path / f"alone-{number}")}
        alone.append(numbers(train(config.replace(**one))))
    loaded = count_loads(monkeypatch)
    # Nothing is read between the epochs either.
    monkeypatch.setattr(state_module, "load_weights", lambda *_: pytest.fail("read from the store"))
    inputs = CommonInputs()
    runs = [train(config.replace(**{"training.learning_rate": rate}), inputs) for rate in rates]
    assert [numbers(run) for run in runs] == alone
    assert alone[0] != alone[1]
    assert len(loaded) == 1
    steps = [step for epoch in (1, 2) for step in checkpoint(runs[1], epoch).trained.steps]
    assert list(dict.fromkeys(step.boundary for step in steps)) == boundaries
    solves = config.freezing.solves_head
    found = [checkpoint(run, 1).trained.found_head for run in runs]
    assert found == [False, solves]


def test_a_killed_run_goes_on_from_the_store_and_begins_with_parts_of_another(
    config: Config,
) -> None:
    config = config.replace(freezing={"policy": "static", "depth": 1})
    inputs = CommonInputs()
    first = train(config, inputs)
    storage, second = first.storage, config.replace(**{"training.learning_rate": 3e-3})
    folder = Path(config.store)
    run = train(second, inputs)
    for part in FROZEN:
        digest = run.record.weights[part]
        files = [folder / part_key(one.parts_folder, digest) for one in (first, run)]
        assert files[0].samefile(files[1])
    # A third one, after the first two were deleted.
    for one in (first, run):
        storage.delete_folder(one.folder)
    third = train(config.replace(**{"training.learning_rate": 2e-3}), inputs)
    assert storage.exists(part_key(third.parts_folder, third.record.weights["embeddings"]))
    # Its last epoch again, by a process that shares nothing and by one that holds another state.
    expected = numbers(third)
    for again in (None, inputs):
        for name in ("started", "checkpoint", "report"):
            storage.delete(third.epoch_key(2, name))
        assert numbers(train(third.config, again)) == expected


def test_settings_that_say_something_of_data_or_model_are_looked_at_anew(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [{"training.learning_rate": 2e-3}, {"freezing.depth": 2}, {"training.epochs": 1}]
    other = [{"training.seed": 1}, {"data.max_length": 16}, {"training.pooled_last_block": False}]
    inputs, storage, loaded = CommonInputs(), Storage(config.store), count_loads(monkeypatch)
    identify_run(config, storage, common=inputs)
    for changes in same + other:
        changed = config.replace(**changes)
        before = len(loaded)
        shared = identify_run(changed, storage, common=inputs)
        assert (len(loaded) == before) == (changes in same), changes
        alone = identify_run(changed, storage)
        assert shared.model_copy(update={"training_id": alone.training_id}) == alone, changes


def looked_at(model: nn.Module | None) -> LookedAt:
    fields: dict[str, Any] = dict.fromkeys(
        ("data", "structure", "num_blocks", "num_pretrained", "uncacheable")
    )
    return LookedAt(**fields, architecture={}, weights={}, model=model)


def test_one_model_is_held_and_none_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = CommonInputs()
    names = [RecipeDigest(f"{number}") for number in range(6)]
    for name in names:
        inputs.look(name, lambda: looked_at(nn.Linear(1, 1)))
    held = [inputs.look(name, lambda: looked_at(None)).model for name in names[-2:]]
    assert held[0] is None
    assert held[1] is not None
    assert inputs.look(names[0], lambda: looked_at(None)).model is None  # forgotten
    model = nn.Linear(10, 10)
    copied = spare_copy(model)
    assert copied is not None
    assert copied is not model
    monkeypatch.setattr(module, "available_memory", lambda: 100)
    assert spare_copy(model) is None


def test_a_state_is_handed_over_once_and_to_nobody_else() -> None:
    inputs, split = CommonInputs(), object()
    parts = {"head": ContentDigest("1")}
    inputs.hand_over(parts, split, {})  # type: ignore[arg-type]
    assert inputs.take_over(dict(parts)) == (split, {})
    assert inputs.take_over(parts) is None
    inputs.hand_over(parts, split, {})  # type: ignore[arg-type]
    assert inputs.take_over({"head": ContentDigest("2")}) is None
    assert inputs.take_over(parts) is None  # whose turn it was has begun otherwise


def test_a_part_that_is_gone_is_not_copied(local_storage: Storage) -> None:
    inputs, data = CommonInputs(), save({})
    digest = content_digest(data)
    assert not inputs.copy_stored(local_storage, digest, "there")
    local_storage.put("here", data)
    inputs.note_stored(digest, "here")
    assert inputs.copy_stored(local_storage, digest, "there")
    assert local_storage.get("there") == data
    local_storage.delete("here")
    assert not inputs.copy_stored(local_storage, digest, "elsewhere")
    assert not local_storage.exists("elsewhere")
