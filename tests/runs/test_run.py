from typing import Any

import pytest

from afcore.config import parse_config
from afcore.runs import run as runs
from afcore.runs.run import begin_run, identify_run
from afcore.storage.objects import Storage


def test_compiling_is_part_of_what_names_a_run(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "check_compiler", lambda device: None)
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
