"""The bench of plans, with a model so small that its figures mean nothing."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import load_script

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.slow
def test_boundaries_and_policies_are_predicted_and_trained(
    tiny_bert: Path,
    text_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr("afcore.preview._BUDGET_SECONDS", 0.1)
    options = {
        "--train": text_files["train"],
        "--limit": 24,
        "--boundaries": 2,
        "--policies": "frozen_start,gradient_norm",
        "--epochs": 3,
        "--out": tmp_path,
        "--set": f"model.name={tiny_bert}",
    }
    arguments = [str(part) for option in options.items() for part in option]
    arguments += ["--set", "data.max_length=32"]
    monkeypatch.setattr(sys, "argv", ["plan.py", *arguments])
    load_script(BENCH / "plan.py").main()
    (found,) = tmp_path.glob("plan-*/plan.json")
    rows = json.loads(found.read_text())
    modes = [row["mode"] for row in rows]
    assert modes[:2] == ["freeze", "cached"]
    assert {"frozen_start", "gradient_norm"} == set(modes[2:])
    assert modes.count("gradient_norm") == 3
    assert [row["read_from"] for row in rows[:2]] == ["tokens", "activations@2"]
    assert all(row["predicted_train_seconds"] > 0 for row in rows)
    written = [row for row in rows if row["bytes"]]
    assert written
    assert any(row["predicted_bytes"] == row["bytes"] for row in written)
