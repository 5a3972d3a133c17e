"""A measurement serves the trials that compute alike, and no others."""

from typing import Any

import pytest
import torch

from afcore.compute import Compute
from afcore.config import parse_config
from afcore.runs import decide
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.search.shared_profile import _key
from afcore.storage.objects import Storage
from tests.search.test_conduct_study import conduct


def test_what_computes_otherwise_has_another_profile(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    config = parse_config(tree, source="test")
    storage = Storage(config.store)
    record = identify_run(config, storage)

    def key(**changes: Any) -> str:
        changed = record.model_copy(update={"config": config.replace(**changes)})
        return _key(Run(storage, changed))

    keys = [key()]
    assert key(**{"training.learning_rate": 2e-3}) == keys[0]
    assert key(**{"freezing.depth": 2}) == keys[0]
    for rank in (2, 4):
        keys.append(key(adapter={"kind": "lora", "rank": rank}))
    keys.append(key(adapter={"kind": "lora", "rank": 2}, **{"freezing.depth": 2}))
    for bits in ("8bit", "4bit"):
        keys.append(key(**{"model.quantization": bits}))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    keys.append(key())
    compute = Compute(torch.device("cuda", 0), "fp32")
    monkeypatch.setattr(Run, "compute", property(lambda _: compute))
    for name in ("NVIDIA H200", "NVIDIA A10"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        keys.append(key())
    assert len(set(keys)) == len(keys) == 9


def test_trials_that_compute_alike_are_measured_once(
    tiny_config: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}, "cache": {"mode": "auto"}}
    tree["training"] = {**tree["training"], "epochs": 2}
    tree["search"] = {
        "vary": {"training.learning_rate": [1e-3, 3e-3]},
        "sampler": "grid",
        "storage": f"sqlite:///{tmp_path}/optuna.db",
    }
    config, measured, measure = parse_config(tree, source="test"), list[str](), decide.measure_run

    def counted(run: Run, *arguments: Any, **settings: Any) -> Any:
        measured.append(run.record.run_id)
        return measure(run, *arguments, **settings)

    monkeypatch.setattr(decide, "measure_run", counted)
    report = conduct(config)
    assert [row.state for row in report.trials] == ["finished"] * 2
    assert len(measured) == 1
    assert len(Storage(config.store).list("searches/profiles")) == 1
