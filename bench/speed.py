"""How much faster is mode cached than what a user would pick instead, and at what accuracy?

Instead means mode full (nothing freezes, the same batches), and Hugging Face's Trainer in its
default order of examples and in its fastest. Runs ``autofreeze compare`` with fresh Prefect and
MLflow databases, as a newcomer would, and reads its report. Prints, beside the table: what the time
is made of, speed-ups seed by seed with their ceiling (if everything but the suffix cost nothing)
and goal, what surrounds the training, and, where a mode of our own comes first, the time from
process start to the first step, databases migrated.

    python bench/speed.py --train train.csv --test test.csv --seeds 3 --epochs 4 --out bench/out
    python bench/speed.py --set data.limit=100 --seeds 2 --epochs 2     # a try
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

from afcore.config import PEER_MODES
from afcore.results.comparison import paired_runs
from afcore.results.paired import paired_difference
from afcore.results.report import CompareReport, RunReport
from pipelines.comparison_table import comparison_table

HERE = Path(__file__).parent
BASELINES = ("full", *PEER_MODES)
# For AG News, 3,000 rows, 2 cores: speed-up by number of epochs and baseline.
GOALS = {
    4: {"hf_trainer": 2.75, "hf_trainer_grouped": 2.0},
    8: {"hf_trainer": 4.0, "hf_trainer_grouped": 3.0},
}
PARTS = {
    "suffix_seconds": "training",
    "prefix_seconds": "frozen blocks",
    "read_seconds": "reading",
    "materialize_seconds": "cache building",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="CSV with the columns text,label")
    parser.add_argument("--test", default="docstrings")
    parser.add_argument("--modes", default=",".join((*BASELINES, "cached")))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    work = arguments.out.absolute() / time.strftime("speed-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    first_step_seconds = run_compare(work, arguments)
    comparison = CompareReport.model_validate_json((work / "report.json").read_text())
    console = Console(width=210)
    console.print(comparison_table(comparison))
    console.print(parts_table(comparison))
    console.print(speedup_table(comparison))
    if first_step_seconds is not None:
        console.print(f"process start to first step: {first_step_seconds:.1f} s")
    time_figure(comparison).savefig(work / "speed.png", dpi=150)
    console.print(f"{work}/report.json, speed.png")


def run_compare(work: Path, arguments: argparse.Namespace) -> float | None:
    """Run the command; seconds until it was about to train its first step, if that is our own."""
    settings = [
        f"data.train={arguments.train}",
        f"data.test={arguments.test}",
        f"training.epochs={arguments.epochs}",
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
    first_step_seconds = None
    if not arguments.modes.startswith("hf_trainer"):
        while process.poll() is None and first_step_seconds is None:
            if list((work / "store").glob("runs/*/*/epochs/001/started.json")):
                first_step_seconds = time.monotonic() - began
            time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(process.returncode)
    return first_step_seconds


def parts_table(comparison: CompareReport) -> Table:
    """What training and cache building are made of, medians over seeds, a row a mode."""
    table = Table(title="What the time is made of, over seeds", title_justify="left")
    for column in (
        "mode",
        "test accuracy, mean",
        "train + cache s, median",
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
        table.add_row(
            mode,
            f"{100 * statistics.mean(run.main_score for run in runs):.2f} %",
            f"{statistics.median(run.paid_seconds for run in runs):.1f}",
            share(runs, lambda r: r.epochs[0].train_seconds),
            share(runs, lambda r: part(r, "suffix_seconds")),
            share(runs, lambda r: part(r, "prefix_seconds")),
            share(runs, lambda r: part(r, "read_seconds")),
            share(runs, lambda r: part(r, "materialize_seconds")),
            f"{statistics.median(around(run) / len(run.epochs) for run in runs):.2f}",
        )
    return table


def speedup_table(comparison: CompareReport) -> Table:
    """Every mode that freezes against every baseline, paired over seeds."""
    table = Table(title="Speed-up, seed by seed", title_justify="left")
    for column in ("mode", "over", "by seed", "median", "wall, median", "ceiling", "goal"):
        table.add_column(column)
    table.add_column("test accuracy, points (95 %)")
    runs = comparison.runs
    for mode in dict.fromkeys(run.mode for run in runs if run.mode not in BASELINES):
        for baseline in BASELINES:
            if pairs := paired_runs(runs, mode, baseline):
                table.add_row(mode, baseline, *_speedups(pairs), _points(pairs))
    return table


def _speedups(pairs: list[tuple[RunReport, RunReport]]) -> tuple[str, ...]:
    ratios = [other.paid_seconds / run.paid_seconds for run, other in pairs]
    walls = [other.totals.wall_seconds / run.totals.wall_seconds for run, other in pairs]
    ceilings = [other.paid_seconds / part(run, "suffix_seconds") for run, other in pairs]
    run, other = pairs[0]
    goal = GOALS.get(len(run.epochs), {}).get(other.mode)
    median = statistics.median(ratios)
    return (
        ", ".join(f"{ratio:.2f}x" for ratio in ratios),
        f"{median:.2f}x",
        f"{statistics.median(walls):.2f}x",
        f"{statistics.median(ceilings):.2f}x",
        f"{goal:.2f}x, {'met' if median >= goal else 'not met'}" if goal else "-",
    )


def _points(pairs: list[tuple[RunReport, RunReport]]) -> str:
    found = paired_difference([r.main_score for r, _ in pairs], [o.main_score for _, o in pairs])
    if len(pairs) == 1:
        return f"{100 * found.mean:+.2f} (one seed)"
    return f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


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
    figure = Figure(figsize=(8, 0.9 + 0.5 * len(comparison.runs)), layout="constrained")
    axes = figure.subplots()
    names = [f"{run.mode}, seed {run.seed}" for run in comparison.runs]
    left = [0.0] * len(names)
    for name, label in PARTS.items():
        seconds = [part(run, name) for run in comparison.runs]
        bars = axes.barh(names, seconds, left=left, label=label)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    totals = zip(left, comparison.runs, strict=True)
    texts = [f"{total:.0f} s, {100 * run.main_score:.1f} %" for total, run in totals]
    axes.bar_label(bars, texts, padding=4)
    axes.set_xlim(0, 1.25 * max(left))
    axes.invert_yaxis()
    axes.set_xlabel("seconds of training and cache building; test accuracy")
    figure.legend(loc="outside upper center", ncols=len(PARTS))
    return figure


if __name__ == "__main__":
    main()
