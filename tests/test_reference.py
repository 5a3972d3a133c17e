"""The generated pages say what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from pydantic import BaseModel

from afcore.config import Config
from afcore.results.report import CompareReport, EpochReport, RunReport, TotalsReport
from tests.conftest import load_script

ROW = re.compile(r"^\| `freezing\.(\w+)` \|", flags=re.M)
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return load_script(DOCS / "reference.py")


def leaves(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        candidates = (field.annotation, *get_args(field.annotation))
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        for inner in sections:
            yield from leaves(inner, f"{prefix}{name}.")
        if not sections:
            yield prefix + name


@pytest.mark.parametrize("page", ["configuration.md", "report.md"])
def test_committed_page_is_what_the_script_writes(reference: ModuleType, page: str) -> None:
    committed = (DOCS / page).read_text(encoding="utf-8")

    assert committed == reference.pages()[DOCS / page], "run: python docs/reference.py"


def test_every_configuration_key_has_a_row() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    keys = list(leaves(Config))

    assert len(keys) > 30
    assert [key for key in keys if f"\n| `{key}` | " not in page] == []


def test_every_policy_has_a_table_of_its_own_keys() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    _, shared, *policies = re.split(r"^##+ `freezing`", page.partition("## `cache`")[0], flags=re.M)

    assert ROW.findall(shared) == ["policy", "intervals_per_epoch"]
    assert {
        re.search(r"`policy: (\w+)`", text)[1]: ROW.findall(text)  # type: ignore[index]
        for text in policies
    } == {
        "frozen_start": ["tolerance", "depth"],
        "guarded": ["patience", "noise_ratio"],
        "gradient_norm": ["percentile"],
        "static": ["depth"],
        "linear": ["depth"],
        "annealed": ["t_0"],
        "none": [],
    }


@pytest.mark.parametrize("model", [RunReport, EpochReport, TotalsReport, CompareReport])
def test_every_field_of_the_report_has_a_row(model: type[BaseModel]) -> None:
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    names = [field.alias or name for name, field in model.model_fields.items()]

    assert names
    assert [name for name in names if f"\n| `{name}` | " not in page] == []


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("data.train", ("text or list of text", "required")),
        ("data.validation", ("text or list of text or number, above 0 and below 1", "`0.1`")),
        ("training.warmup_ratio", ("number, at least 0 and below 1", "`0.0`")),
        ("freezing.depth", ("integer, at least 0; or null", "none")),
        ("freezing.t_0", ("number, above 0 and at most 1", "`0.5`")),
        ("cache.mode", ("`auto`, `on`, `off`", "`auto`")),
    ],
)
def test_range_and_default_in_words(key: str, cells: tuple[str, str]) -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")

    assert f"| `{key}` | {' | '.join(cells)} | " in page


def test_an_undescribed_field_is_refused(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(reference._SAID_HERE, "EpochReport.boundary_start")

    with pytest.raises(ValueError, match=r"EpochReport\.boundary_start is described 0 times"):
        reference.pages()
