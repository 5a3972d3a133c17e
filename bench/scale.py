"""Epochs on 1 and 2 workers: seconds, bytes averaged, and how well both were predicted.

On a CPU a worker is one core, so this wants a machine with two that are free. For boundaries 0,
half and last: an epoch with so many blocks frozen from the start, reading its activation set, on
each number of workers, in turns, so that a machine whose speed changes changes all of them. Before
each round the model, the link and the start are measured anew. Also: what launching an epoch takes,
and what of it cannot be saved (a job that does nothing).

    python bench/scale.py --limit 600 --rounds 3 --out bench/out
"""

import json
import shutil
import statistics
import time
from typing import Any

from matplotlib.figure import Figure
from one_epoch import parser_of, prepare, train_anew, within
from rich.console import Console
from rich.table import Table

from afcore.config import Config
from afcore.launch.job import Job
from afcore.launch.launcher import check_devices, close_launchers, open_launcher, worker_threads
from afcore.preview import preview_run
from afcore.results.report import EpochReport
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.run import Run
from afcore.runs.run_profile import nothing


def main() -> None:
    parser = parser_of(__doc__, boundaries="0,3,5")
    parser.add_argument("--workers", type=int, default=2, help="most workers")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    work, config = prepare(arguments, "scale", [f"workers.max={arguments.workers}"])
    check_devices(config.workers, config.store)
    rows = []
    try:
        launch = [_launch_seconds(config) for _ in range(arguments.rounds + 1)][1:]
        for number in range(arguments.rounds):
            for boundary in map(int, arguments.boundaries.split(",")):
                at = config.replace(**{"freezing.depth": boundary, "training.seed": number})
                rows += _round(at, number, boundary)
    finally:
        close_launchers()
    shutil.rmtree(work / "store")
    found = {"rows": rows, "nothing_launched_seconds": launch}
    (work / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    console = Console(width=150)
    console.print(epoch_table(rows))
    console.print(f"{within(rows)} of predicted")
    console.print(launch_text(rows, launch))
    scale_figure(rows).savefig(work / "scale.png", dpi=150)
    console.print(f"{work}/scale.json, scale.png")


def _round(config: Config, number: int, boundary: int) -> list[dict[str, Any]]:
    """Predict, then train on each number of workers."""
    config = config.replace(mode="cached")
    plan = preview_run(config, ["cached"])
    weighed = plan.boundaries[boundary].workers["performance"]
    rows = []
    for predicted in weighed.alternatives:
        row = _train(config, predicted.setup.num_workers)
        rows.append(
            {
                "round": number,
                "boundary": boundary,
                "predicted_seconds": predicted.seconds,
                "error": predicted.seconds / row["seconds"] - 1,
                "trainable_bytes": 4 * plan.profile.compute.num_parameters[boundary],
                **row,
            }
        )
    return rows


def _train(config: Config, num_workers: int) -> dict[str, Any]:
    """One epoch without orchestration, always anew; building its set is left out."""

    def train(run: Run, attempt: int) -> EpochReport:
        return launch_epoch(run, 1, attempt, num_workers=num_workers)

    done = train_anew(config, train)
    assert done.num_workers == num_workers
    return {
        "workers": num_workers,
        "read_from": done.read_from,
        "seconds": done.seconds - done.materialize_seconds,
        "train_seconds": done.train_seconds,
        "launch_seconds": done.launch_seconds,
        "bytes_per_step": done.gradient_bytes_reduced // done.num_steps,
        "train_loss": done.train_loss,
    }


def _launch_seconds(config: Config) -> float:
    """The least that a launch can take: workers that do nothing."""
    workers = config.workers
    job = Job(nothing, ("", "", 0.0), workers.max, "while nothing is done", worker_threads(workers))
    clock = time.perf_counter()
    open_launcher(workers).run(job)
    return time.perf_counter() - clock


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    keys = sorted({(row["boundary"], row["workers"]) for row in rows})
    return {key: [row for row in rows if (row["boundary"], row["workers"]) == key] for key in keys}


def _median(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def epoch_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="An epoch by number of workers, medians", title_justify="left")
    columns = ("frozen", "reads", "workers", "epoch s", "training s", "speed-up", "predicted s")
    for column in (*columns, "error", "MB averaged a step", "MB that train", "mean loss"):
        table.add_column(column, justify="right")
    groups = _groups(rows)
    for (boundary, count), group in groups.items():
        alone = _median(groups[boundary, 1], "seconds")
        table.add_row(
            str(boundary),
            group[0]["read_from"],
            str(count),
            f"{_median(group, 'seconds'):.1f}",
            f"{_median(group, 'train_seconds'):.1f}",
            f"{alone / _median(group, 'seconds'):.2f}x",
            f"{_median(group, 'predicted_seconds'):.1f}",
            " ".join(f"{100 * row['error']:+.0f} %" for row in group),
            f"{group[0]['bytes_per_step'] / 1e6:.2f}",
            f"{group[0]['trainable_bytes'] / 1e6:.2f}",
            f"{_median(group, 'train_loss'):.4f}",
        )
    return table


def launch_text(rows: list[dict[str, Any]], nothing: list[float]) -> str:
    several = [row["launch_seconds"] for row in rows if row["workers"] > 1]
    return (
        f"launching an epoch: {statistics.median(several):.2f} s from the start of its workers to "
        "its first batch (fork, rendezvous, process group, data, weights); workers that do nothing "
        f"take {statistics.median(nothing):.2f} s, to their end"
    )


def scale_figure(rows: list[dict[str, Any]]) -> Figure:
    """Measured and predicted seconds of an epoch, by boundary."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    groups = _groups(rows)
    colors = {1: "#5e81ac", 2: "#bf616a"}
    for count in sorted({count for _, count in groups}):
        some = {boundary: group for (boundary, n), group in groups.items() if n == count}
        label = f"{count} worker{'s' * (count > 1)}"
        axes.plot(
            list(some),
            [_median(group, "seconds") for group in some.values()],
            marker="o",
            color=colors.get(count),
            label=label,
        )
        axes.plot(
            list(some),
            [_median(group, "predicted_seconds") for group in some.values()],
            linestyle="--",
            color=colors.get(count),
            label=f"{label}, predicted",
        )
    axes.set(xlabel="boundary: blocks frozen", ylabel="seconds of an epoch")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
