"""The table, the JSON file and the picture of ``bench/search.py``."""

import io
import json
from typing import Any

from rich.console import Console

from bench.search_parts.results import publish


def _piece(seconds: float, **further: Any) -> dict[str, Any]:
    return {"seconds": seconds, "processor_seconds": 2 * seconds, "validation": 0.75, **further}


def test_ratios_are_over_the_trainer_and_over_the_trials_alone(tmp_path):
    report = {"trials": [{"number": 0, "state": "pruned", "values": {}, "members": ["much"]}]}
    found = {
        "trainer": _piece(600.0, test=0.7, values={"learning_rate": 1e-4}),
        "cold": _piece(120.0, test=0.71, values={"learning_rate": 2e-4}, pruned=3, report=report),
        "warm": _piece(60.0, pruned=3, report=report),
        "alone": _piece(240.0),
    }
    written = io.StringIO()

    publish({"a-set": found}, {"cpu": "one"}, [tmp_path], Console(file=written, width=160))

    rows = {
        line.split("│")[1].strip(): line for line in written.getvalue().splitlines() if "│" in line
    }
    assert [cell.strip() for cell in rows["cold"].split("│")][2:5] == ["120.0", "5.00x", "2.00x"]
    assert [cell.strip() for cell in rows["warm"].split("│")][2:5] == ["60.0", "10.00x", "4.00x"]
    tree = json.loads((tmp_path / "search.json").read_text())
    assert tree["machine"] == {"cpu": "one"}
    (trial,) = tree["sets"]["a-set"]["cold"]["report"]
    assert trial["state"] == "pruned"
    assert "members" not in trial
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_a_set_of_which_pieces_are_missing(tmp_path):
    written = io.StringIO()

    publish({"a-set": {"cold": _piece(3.0)}}, {}, [tmp_path], Console(file=written, width=160))

    assert "3.0" in written.getvalue()
    assert (
        json.loads((tmp_path / "search.json").read_text())["sets"]["a-set"]["cold"]["seconds"]
        == 3.0
    )
