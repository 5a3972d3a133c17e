"""How much faster is mode cached than mode full, at what accuracy, and what is the ceiling?

Runs ``autofreeze compare`` with fresh Prefect and MLflow databases, as a newcomer would, and reads
its report. Prints, beside the table: where the cached runs' time goes, the ceiling (speed-up if
everything but the suffix cost nothing), what surrounds the training, and the time from process
start to the first step, databases migrated.

    python bench/speed.py --train train.csv --test test.csv --seeds 3 --out bench/out
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from afcore.report import CompareReport, RunReport
from pipelines.table import comparison_table

HERE = Path(__file__).parent
PARTS = ("prefix_seconds", "suffix_seconds", "read_seconds", "materialize_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="CSV with the columns text,label")
    parser.add_argument("--test", default="docstrings")
    parser.add_argument("--modes", default="full,cached")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    work = arguments.out.absolute() / time.strftime("speed-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    first_step_seconds = run_compare(work, arguments)
    comparison = CompareReport.model_validate_json((work / "report.json").read_text())
    console = Console(width=170)
    console.print(comparison_table(comparison))
    console.print(summary_table(comparison))
    console.print(f"process start to first step: {first_step_seconds:.1f} s")
    time_figure(comparison).savefig(work / "speed.png", dpi=150)
    console.print(f"{work}/report.json, speed.png")


def run_compare(work: Path, arguments: argparse.Namespace) -> float:
    """Run the command; seconds until it was about to train its first step."""
    settings = [
        f"data.train={arguments.train}",
        f"data.test={arguments.test}",
        f"store={work}/store",
        f"tracking.uri=sqlite:///{work}/mlflow.db",
        *arguments.set,
    ]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "compare"]
    command += [str(HERE / "speed.yaml"), "--modes", arguments.modes]
    command += ["--seeds", str(arguments.seeds), "--report", str(work / "report.json")]
    for setting in settings:
        command += ["--set", setting]
    environment = os.environ | {"PREFECT_HOME": str(work / "prefect"), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    while not list((work / "store").glob("runs/*/*/epochs/001/plan.json")):
        if process.poll() is not None:
            break
        time.sleep(0.05)
    first_step_seconds = time.monotonic() - began
    if process.wait() != 0:
        raise SystemExit(process.returncode)
    return first_step_seconds


def summary_table(comparison: CompareReport) -> Table:
    """Medians and means over seeds, a row a mode."""
    table = Table(title="Over seeds", title_justify="left")
    for column in (
        "mode",
        "test accuracy, mean",
        "train + cache s, median",
        "speed-up, median",
        "ceiling",
        "first epoch",
        "suffix",
        "prefix",
        "reading",
        "cache building",
        "around, s an epoch",
    ):
        table.add_column(column)
    for mode in dict.fromkeys(run.mode for run in comparison.runs):
        runs = [run for run in comparison.runs if run.mode == mode]
        full = {run.seed: run for run in comparison.runs if run.mode == "full"}
        accuracy = statistics.mean((r.totals.test or r.totals.validation)["accuracy"] for r in runs)
        ceilings = [full[r.seed].paid_seconds / part(r, "suffix_seconds") for r in runs if full]
        table.add_row(
            mode,
            f"{100 * accuracy:.2f} %",
            f"{statistics.median(run.paid_seconds for run in runs):.1f}",
            f"{comparison.speedup.get(mode, float('nan')):.2f}x",
            f"{statistics.median(ceilings):.2f}x" if ceilings else "-",
            share(runs, lambda r: r.epochs[0].train_seconds),
            share(runs, lambda r: part(r, "suffix_seconds")),
            share(runs, lambda r: part(r, "prefix_seconds")),
            share(runs, lambda r: part(r, "read_seconds")),
            share(runs, lambda r: part(r, "materialize_seconds")),
            f"{statistics.median(around(run) / len(run.epochs) for run in runs):.2f}",
        )
    return table


def part(run: RunReport, name: str) -> float:
    return sum(getattr(epoch, name) for epoch in run.epochs)


def share(runs: list[RunReport], seconds: object) -> str:
    """Median share of training and cache building."""
    return f"{100 * statistics.median(seconds(run) / run.paid_seconds for run in runs):.0f} %"


def around(run: RunReport) -> float:
    """Seconds of a run in neither training, cache building nor evaluation."""
    totals = run.totals
    return totals.wall_seconds - run.paid_seconds - totals.evaluate_seconds


def time_figure(comparison: CompareReport) -> Figure:
    """Where each run's seconds went."""
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(comparison.runs)), layout="constrained")
    axes = figure.subplots()
    names = [f"{run.mode}, seed {run.seed}" for run in comparison.runs]
    left = [0.0] * len(names)
    for name in PARTS:
        seconds = [part(run, name) for run in comparison.runs]
        axes.barh(names, seconds, left=left, label=name.removesuffix("_seconds"))
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
