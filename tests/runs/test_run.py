import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from afcore import numerics
from afcore.config import Config, parse_config
from afcore.errors import IntegrityError
from afcore.runs import identify
from afcore.runs.identify import identify_run
from afcore.runs.publish import finished_report
from afcore.runs.run import Run, RunRecord, begin_run, find_run, open_run, read_record, run_lease
from afcore.storage.objects import Storage
from tests.model.test_pretrained import configure


def test_compiling_is_part_of_what_names_a_run(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "check_compiler", lambda device: None)
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    compiled = config.replace(**{"training.compile": True})
    names = [identify_run(c, storage).run_id for c in (config, config, compiled)]
    assert names[0] == names[1] != names[2]


def test_the_attention_kernel_is_recorded_and_used_again(tiny_config: dict[str, Any]) -> None:
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    record = identify_run(config, storage)
    assert record.architecture["attn_implementation"] == "sdpa"
    eager = {**record.architecture, "attn_implementation": "eager"}
    for architecture, expected in ((record.architecture, "sdpa"), (eager, "eager")):
        run = begin_run(storage, record.model_copy(update={"architecture": architecture}))
        assert run.architecture().model.config._attn_implementation == expected


def test_how_the_last_block_is_run_is_found_once_and_read_afterwards(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried anew, on other weights or machines, a borderline model may come out otherwise."""
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    begin_run(storage, identify_run(config, storage))
    monkeypatch.setattr("afcore.model.find_pooling._TOLERANCE", -1.0)  # nothing passes any more
    tried_now = identify_run(config, storage)
    assert tried_now.structure.pooling is None
    begin_run(storage, tried_now)
    run = open_run(config.store, tried_now.run_id)
    assert run.record.structure.pooling is not None
    for split in (run.architecture(), run.pretrained()):
        assert split.structure == run.record.structure
        assert split.pooled is not None


@pytest.mark.parametrize(
    ("mode", "room", "in_name"),
    [
        ("full", "training", True),
        ("full", "freezing", False),
        ("full", "peer", False),
        ("cached", "data", True),
        ("cached", "model", True),
        ("cached", "freezing", True),
        ("cached", "activations", True),
        ("hf_trainer", "peer", True),
        ("hf_trainer", "training", False),
    ],
)
def test_a_version_of_numbers_names_the_runs_that_go_through_the_room(
    mode: str,
    room: str,
    in_name: bool,
    tiny_config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = parse_config(tiny_config | {"mode": mode}, source="test")
    storage = Storage(config.store)
    before = identify_run(config, storage)
    monkeypatch.setitem(numerics.NUMERICS, room, 99)
    after = identify_run(config, storage)
    assert (after.run_id != before.run_id) == in_name
    assert (after.data != before.data) == (room == "data")


def test_what_a_checkpoint_was_saved_for_is_no_part_of_a_name(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_config["model"]["name"], tmp_path / "model")
    configure(copy, problem_type="regression")
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    one, other = (
        identify_run(config.replace(**{"model.name": name}), storage)
        for name in (config.model.name, str(copy))
    )
    assert one.run_id == other.run_id
    assert other.architecture["problem_type"] == "single_label_classification"


def begun(tiny_config: dict[str, Any]) -> tuple[Config, Storage, Run]:
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage))
    storage.put(run.epoch_key(1, "started"), b"{}")
    return config, storage, run


@pytest.mark.parametrize("damaged", [b"", b'{"run_id": "', b"\xff\x00", b"[]", b"{}"])
def test_a_damaged_record_is_named_with_what_to_do(
    damaged: bytes, tiny_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config, storage, run = begun(tiny_config)
    key = f"runs/{run.record.run_id}/run.json"
    storage.put(key, damaged)
    for read in (
        lambda: find_run(storage, run.record.run_id),
        lambda: open_run(config.store, run.record.run_id),
        lambda: read_record(storage, key, RunRecord),
    ):
        with pytest.raises(IntegrityError, match=rf"{key} is damaged.*Train anew with --fresh\."):
            read()
    assert read_record(storage, key, RunRecord, replaceable=True) is None
    assert f"{key} is damaged" in caplog.text
    assert finished_report(storage, run.record.run_id) is None


def test_a_damaged_record_of_a_run_is_made_anew_and_its_training_goes_on(
    tiny_config: dict[str, Any],
) -> None:
    config, storage, run = begun(tiny_config)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id):
        storage.put(f"runs/{record.run_id}/run.json", b"{")
        again = begin_run(storage, record)
    assert again.record.training_id == run.record.training_id != record.training_id
    found = find_run(storage, record.run_id)
    assert found is not None
    assert found.folder == run.folder
    storage.put(f"runs/{record.run_id}/run.json", b"{")
    storage.put(f"runs/{record.run_id}/other/epochs/001/started.json", b"{}")
    with pytest.raises(IntegrityError, match=r"2 trainings lie beside it\. Train anew with"):
        begin_run(storage, record)
    fresh = begin_run(storage, record, fresh=True)
    assert fresh.record.training_id == record.training_id
    left = {key for key in storage.list(f"runs/{record.run_id}") if "/lease/" not in key}
    assert left == {f"runs/{record.run_id}/run.json"}


def test_a_model_that_changes_itself_while_it_runs_is_not_cached(
    tiny_config: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """BigBird turns its sparse attention off for good when it meets a short text."""
    config = transformers.BigBirdConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        block_size=4,
        num_random_blocks=1,
    )
    transformers.BigBirdModel(config).save_pretrained(tmp_path / "bird")
    tiny_tokenizer.save_pretrained(tmp_path / "bird")
    tree = tiny_config | {"model": {"name": str(tmp_path / "bird")}, "mode": "cached"}
    record = identify_run(parse_config(tree, source="test"), Storage(tree["store"]))
    assert record.uncacheable is not None
    assert "changes its own settings for those that follow" in record.uncacheable
