"""Does ``autofreeze plan`` predict what then happens?

For some boundaries: profile and predict, then train one epoch with so many blocks frozen from the
start, computing them (mode freeze) and reading them (mode cached). For some policies: train with
them, then profile, and predict each epoch for the boundaries that it had. Prints predicted and
measured seconds of the epoch and of building the set. Prediction and epoch follow each other
closely, so that a machine whose speed changes is not taken for a bad prediction.

    python bench/plan.py --limit 600 --policies guarded,frozen_start --out bench/out
"""

import json
import os
import shutil
from typing import get_args

from matplotlib.figure import Figure
from one_epoch import ACCEPTED, parser_of, prepare, train_all, train_anew, within
from rich.console import Console
from rich.table import Table

from afcore.config import Config
from afcore.freezing.known_policies import Policy
from afcore.planning.forecast import Forecast
from afcore.preview import PlanReport, preview_run
from afcore.results.report import EpochReport
from afcore.runs.epoch import run_epoch


def main() -> None:
    parser = parser_of(__doc__, boundaries="0,1,3,5")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--policies", default="", help="comma-separated, or all")
    parser.add_argument("--epochs", type=int, default=4, help="of a training with a policy")
    arguments = parser.parse_args()
    work, config = prepare(arguments, "plan", ["cache.share=false"])
    rows = []
    for _ in range(arguments.repeats):
        for boundary in map(int, arguments.boundaries.split(",")):
            rows += predict_and_train(config.replace(**{"freezing.depth": boundary}), boundary)
        for policy in policies_of(arguments.policies):
            changes = {"freezing.policy": policy, "training.epochs": arguments.epochs}
            rows += train_and_predict(config.replace(mode="cached", **changes), policy)
    shutil.rmtree(work / "store")
    (work / "plan.json").write_text(json.dumps(rows, indent=1) + "\n")
    console = Console(width=120)
    console.print(error_table(rows))
    console.print(within(rows))
    error_figure(rows).savefig(work / "plan.png", dpi=150)
    console.print(f"{work}/plan.json, plan.png")


def predict_and_train(config: Config, boundary: int) -> list[dict[str, object]]:
    rows = []
    for mode in ("freeze", "cached") if boundary else ("freeze",):
        plan = preview_run(config, [mode])
        epoch = train_anew(
            config.replace(mode=mode), lambda run, attempt: run_epoch(run, 1, attempt)
        )
        rows.append(compare(plan, epoch, mode, boundary))
    return rows


def policies_of(names: str) -> list[str]:
    if names == "all":
        return [kind.model_fields["policy"].default for kind in get_args(Policy)]
    return names.split(",") if names else []


def train_and_predict(config: Config, policy: str) -> list[dict[str, object]]:
    """A training with a policy, then each of its epochs, predicted for the boundaries it had."""
    epochs, trace = train_all(config)
    plan = preview_run(config, ["cached"], trace)
    (forecast,) = (run for run in plan.runs if run.case == "as recorded")
    return [
        _row(plan, predicted, epoch, policy)
        for predicted, epoch in zip(forecast.epochs, epochs, strict=True)
    ]


def compare(plan: PlanReport, epoch: EpochReport, mode: str, boundary: int) -> dict[str, object]:
    (forecast,) = plan.runs
    (predicted,) = forecast.epochs
    assert predicted.setup.boundaries[0] == boundary == epoch.boundary_start
    return _row(plan, predicted, epoch, mode)


def _row(plan: PlanReport, predicted: Forecast, epoch: EpochReport, name: str) -> dict[str, object]:
    return {
        "boundary": epoch.boundary_start,
        "boundary_end": epoch.boundary_end,
        "epoch": epoch.epoch,
        "mode": name,
        "read_from": epoch.read_from,
        "predicted_train_seconds": predicted.train_seconds,
        "train_seconds": epoch.train_seconds,
        "error": predicted.train_seconds / epoch.train_seconds - 1,
        "predicted_materialize_seconds": predicted.materialize_seconds,
        "materialize_seconds": epoch.materialize_seconds,
        "predicted_bytes": predicted.activation_bytes_written,
        "bytes": epoch.activation_bytes_written,
        "predicted_cost_usd": predicted.cost_usd,
        "cost_usd": epoch.cost_usd,
        "profile_seconds": plan.profile.seconds,
        "load_average": os.getloadavg()[0],
    }


def error_table(rows: list[dict[str, object]]) -> Table:
    table = Table(title="An epoch, predicted and measured", title_justify="left")
    columns = ("as", "epoch", "frozen", "reads", "predicted s", "measured s", "error", "building s")
    for column in (*columns, "built s", "MB", "measured MB", "load"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["mode"],
            str(row["epoch"]),
            f"{row['boundary']} to {row['boundary_end']}",
            row["read_from"],
            f"{row['predicted_train_seconds']:.1f}",
            f"{row['train_seconds']:.1f}",
            f"{100 * row['error']:+.0f} %",
            f"{row['predicted_materialize_seconds']:.1f}",
            f"{row['materialize_seconds']:.1f}",
            f"{row['predicted_bytes'] / 1e6:.1f}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['load_average']:.1f}",
        )
    return table


def error_figure(rows: list[dict[str, object]]) -> Figure:
    """Measured against predicted, with the accepted band."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    longest = 1.1 * max(max(r["train_seconds"], r["predicted_train_seconds"]) for r in rows)
    axes.plot([0, longest], [0, longest], color="#4c566a", linewidth=1)
    axes.fill_between(
        [0, longest],
        [0, longest * (1 - ACCEPTED)],
        [0, longest * (1 + ACCEPTED)],
        color="#88c0d0",
        alpha=0.3,
        label=f"within {100 * ACCEPTED:.0f} %",
    )
    for mode in dict.fromkeys(row["mode"] for row in rows):
        chosen = [row for row in rows if row["mode"] == mode]
        axes.scatter(
            [row["train_seconds"] for row in chosen],
            [row["predicted_train_seconds"] for row in chosen],
            label=mode,
        )
    axes.set(xlabel="measured seconds", ylabel="predicted seconds", title="An epoch")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
