"""bench/gpu.py runs where there is nothing but torch, transformers, numpy and zarr."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
BENCH = Path(__file__).parent.parent.parent / "bench"
OPTIONS = "--tiny --examples 60 --batch-sizes 8 --boundaries 6,11 --steps 2 --warmup 1 --repeats 1"
# Packages that torch, transformers, numpy and zarr do not bring with them are as if not there.
BARE = """
import re, runpy, sys
from importlib.metadata import (
    Distribution, PackageNotFoundError, distribution, packages_distributions
)

def normal(name):
    return re.sub("[-_.]+", "-", name).lower()

there, waiting = set(), ["torch", "transformers", "numpy", "zarr"]
while waiting:
    name = normal(waiting.pop())
    if name in there:
        continue
    there.add(name)
    try:
        required = distribution(name).requires or []
    except PackageNotFoundError:
        continue
    waiting += [re.match("[\\\\w.-]+", r)[0] for r in required if "extra ==" not in r]
there.add("autofreeze")  # this repository, installed or not
for module, owners in packages_distributions().items():
    if not {normal(owner) for owner in owners} & there:
        sys.modules[module] = None
discover = Distribution.discover
Distribution.discover = lambda **query: (d for d in discover(**query) if normal(d.name) in there)
print(sorted(m for m, found in sys.modules.items() if found is None))
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The report that it wrote, and what it printed."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(BENCH / "gpu.py"), *OPTIONS.split(), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=out.parent,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_it_needs_no_other_package(ran: tuple[Path, str]) -> None:
    out, printed = ran
    absent = printed.splitlines()[0]
    for name in ("prefect", "mlflow", "datasets", "xxhash", "matplotlib"):
        assert f"'{name}'" in absent
    assert "no matplotlib here" in printed
    assert not out.with_suffix(".png").exists()


def test_every_row_is_there(ran: tuple[Path, str]) -> None:
    report = json.loads(ran[0].read_text())
    rows = [(row["mode"], row["boundary"], row["tier"]) for row in report["rows"]]
    per_boundary = [("freeze", ""), *(("cached", t) for t in ("device", "host", "disk", "store"))]
    expected: list[Any] = [("hf random", 0, ""), ("hf grouped", 0, ""), ("full", 0, "")]
    for boundary in (6, 11):
        expected += [(mode, boundary, tier) for mode, tier in [*per_boundary, ("limit", "")]]
    assert rows == expected
    assert all(row["tokens_per_second"] > 0 for row in report["rows"])
    assert "sdpa attention" in report["machine"]


def test_what_the_tiers_give_is_what_the_prefix_gives(ran: tuple[Path, str]) -> None:
    report = json.loads(ran[0].read_text())
    assert report["cached_minus_recomputed"] < 0.02


def test_the_picture_is_drawn_from_the_report(
    ran: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_gpu", module)
    spec.loader.exec_module(module)
    copy = tmp_path / "gpu.json"
    copy.write_bytes(ran[0].read_bytes())
    module.plot(copy)
    assert copy.with_suffix(".png").stat().st_size > 10_000
