"""Invariant 4 for the tasks whose examples are no single texts: SIGKILL changes nothing."""

from pathlib import Path
from typing import Any

import pytest

from afcore.config import parse_config
from tests.tasks.killed_training import check_killed_is_undisturbed
from tests.tasks.test_fit_of_tasks import tree

KINDS = ["words", "a question", "a choice", "a summary by T5", "words by GPT-2"]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_gone_on_is_undisturbed(
    kind: str, tiny_config: dict[str, Any], tiny_generators: Path, tmp_path: Path
) -> None:
    settings = tree(kind, tiny_config, tiny_generators, tmp_path)
    settings["training"] |= {"epochs": 2, "stop": "never"}
    settings["freezing"] = {"policy": "static", "depth": 2}
    settings["cache"] = {"mode": "on"}
    check_killed_is_undisturbed(parse_config(settings, source="test"), tmp_path)
