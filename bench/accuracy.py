"""Does freezing cost accuracy? Four ways of training on three data sets, over several seeds.

``full`` (nothing freezes), ``static`` (the lower half, from the start), ``gradient_norm`` (the
paper's rule) and ``guarded`` train on the same batches; differences to ``full`` are paired over
seeds. Every training is a run of the product, so the bench can be killed and started again with the
same ``--out``: what is finished is not trained again.

    python bench/accuracy.py --agnews train.csv test.csv --seeds 0,1,2 --out bench/out/accuracy
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"mode": "full"},
    "static": {"freezing.policy": "static"},
    "gradient_norm": {"freezing.policy": "gradient_norm"},
    "guarded": {"freezing.policy": "guarded"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agnews", nargs=2, metavar=("TRAIN", "TEST"), help="CSV: text,label")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[0, 1, 2],
        help="comma-separated",
    )
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=list(VARIANTS),
        help="comma-separated, trained in this order",
    )
    parser.add_argument(
        "--skip-equal",
        action="store_true",
        help="full is not trained where guarded, named before it, froze nothing: the same training",
    )
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "accuracy")
    arguments = parser.parse_args()
    if "full" not in arguments.variants:
        parser.error("--variants: all differences are to full, which is not among them")
    variants = arguments.variants
    if arguments.skip_equal and "guarded" not in variants[: variants.index("full")]:
        parser.error("--skip-equal: name guarded before full in --variants")
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(out / "prefect"))
    rows = train_all(out, arguments)
    (out / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n")
    console = Console(width=150)
    for table in (seeds_table(rows), summary_table(rows)):
        console.print(table)
    frontier_figure(rows).savefig(out / "accuracy.png", dpi=150)
    console.print(f"{out}/accuracy.json, accuracy.png")


def train_all(out: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each data set, seed and variant; the seeds of a data set one after the other."""
    from pipelines.environment import set_defaults
    from pipelines.ephemeral import ephemeral_server

    set_defaults()
    rows = []
    with ephemeral_server():
        from pipelines.finetune import finetune

        for seed in arguments.seeds:
            for name, data in data_sets(arguments.agnews).items():
                for variant in arguments.variants:
                    same = equal_to_full(rows, name, seed) if arguments.skip_equal else None
                    if variant == "full" and same:
                        rows.append({**same, "variant": "full", "copied": True})
                    else:
                        changes = {**data, **VARIANTS[variant]}
                        report = finetune(configuration(out, changes, seed, arguments.set))
                        rows.append(row(name, variant, seed, report))
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def equal_to_full(rows: list[dict[str, Any]], data: str, seed: int) -> dict[str, Any] | None:
    """A training with ``guarded`` that froze nothing: what ``full`` computes, and its statistics.

    Its seconds stand for those of ``full`` too, so a speed-up over it leaves out what the
    statistics cost; the row of ``full`` says ``copied``.
    """
    for r in rows:
        if (r["data"], r["seed"], r["variant"]) == (data, seed, "guarded"):
            return None if any(r["boundaries"]) else r
    return None


def data_sets(agnews: list[str] | None) -> dict[str, dict[str, Any]]:
    """Settings of each data set; the docstrings are asked two questions."""
    short = {"data.limit": 2000, "data.max_length": 64}
    sets: dict[str, dict[str, Any]] = {}
    if agnews:
        sets["AG News"] = {"data.train": agnews[0], "data.test": agnews[1]}
    sets["docstrings: package"] = {"data.label": "label", **short}
    sets["docstrings: kind"] = {"data.label": "kind", **short}
    return sets


def configuration(out: Path, changes: dict[str, Any], seed: int, settings: list[str]) -> Any:
    from afcore.config import load_config

    changes = {
        "mode": "cached",
        "cache.share": False,
        "data.test_limit": None,
        "store": str(out / "store"),
        "tracking.uri": f"sqlite:///{out}/mlflow.db",
        "tracking.experiment": "bench-accuracy",
        **changes,
        "training.seed": seed,
    }
    overrides = [f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in changes.items()]
    return load_config(str(HERE / "speed.yaml"), [*overrides, *settings])


def row(data: str, variant: str, seed: int, report: dict[str, Any]) -> dict[str, Any]:
    totals = report["totals"]
    return {
        "data": data,
        "variant": variant,
        "seed": seed,
        "validation": totals["validation"]["accuracy"],
        "test": totals["test"]["accuracy"],
        "paid_seconds": totals["train_seconds"] + totals["materialize_seconds"],
        "materialize_seconds": totals["materialize_seconds"],
        "activation_bytes": totals["activation_bytes_written"],
        "boundaries": [epoch["boundary_end"] for epoch in report["epochs"]],
    }


def with_full(
    rows: list[dict[str, Any]], variant: str, data: str | None = None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each training of a variant, on one data set or all, beside that of ``full`` it pairs with."""
    full = {(r["data"], r["seed"]): r for r in rows if r["variant"] == "full"}
    return [
        (r, full[r["data"], r["seed"]])
        for r in rows
        if r["variant"] == variant and data in (None, r["data"])
    ]


def differences(rows: list[dict[str, Any]], variant: str, data: str | None) -> list[float]:
    """Test accuracy minus that of ``full``, in points, for each pair of the same data and seed."""
    return [_points(*pair) for pair in with_full(rows, variant, data)]


def means_by(rows: list[dict[str, Any]], variant: str, key: str) -> list[float]:
    """Mean difference of each data set, or of each seed that was trained on every data set."""
    num_data_sets = len({r["data"] for r in rows})
    groups: dict[Any, list[float]] = {}
    for pair in with_full(rows, variant):
        groups.setdefault(pair[0][key], []).append(_points(*pair))
    whole = [g for g in groups.values() if key == "data" or len(g) == num_data_sets]
    return [statistics.mean(group) for group in whole]


def speedups(rows: list[dict[str, Any]], variant: str, data: str | None) -> list[float]:
    pairs = with_full(rows, variant, data)
    return [full["paid_seconds"] / r["paid_seconds"] for r, full in pairs]


def _points(r: dict[str, Any], full: dict[str, Any]) -> float:
    return 100 * (r["test"] - full["test"])


def seeds_table(rows: list[dict[str, Any]]) -> Table:
    """Every training."""
    table = Table(title="Trainings", title_justify="left")
    columns = ("data", "seed", "variant", "validation", "test", "train + cache s", "boundaries")
    for column in columns:
        table.add_column(column)
    for r in rows:
        variant = r["variant"] + (" (copied)" if r.get("copied") else "")
        table.add_row(
            *(r["data"], str(r["seed"]), variant, f"{100 * r['validation']:.2f} %"),
            *(f"{100 * r['test']:.2f} %", f"{r['paid_seconds']:.1f}", str(r["boundaries"])),
        )
    return table


def summary_table(rows: list[dict[str, Any]]) -> Table:
    """Mean paired difference to ``full`` with its 95 % interval, and median speed-up."""
    table = Table(title="Difference to full, in points of test accuracy", title_justify="left")
    for column in ("data", "variant", "sample", "mean difference", "95 % interval", "speed-up"):
        table.add_column(column)
    variants = [name for name in dict.fromkeys(r["variant"] for r in rows) if name != "full"]
    for data in dict.fromkeys(r["data"] for r in rows):
        for variant in variants:
            add_row(table, rows, data, data, variant, differences(rows, variant, data))
        table.add_section()
    # What varies: the data sets, of which these are a sample; or the seeds, on these data sets.
    for key, name in (("data", "all, over data sets"), ("seed", "all, over seeds")):
        for variant in variants:
            add_row(table, rows, name, None, variant, means_by(rows, variant, key))
        table.add_section()
    return table


def add_row(
    table: Table,
    rows: list[dict[str, Any]],
    name: str,
    data: str | None,
    variant: str,
    sample: list[float],
) -> None:
    from afcore.results.paired import paired_difference

    difference = paired_difference(sample, [0.0] * len(sample))
    table.add_row(
        *(name, variant, str(len(sample)), f"{difference.mean:+.2f}"),
        f"{difference.low:+.2f} to {difference.high:+.2f}",
        f"{statistics.median(speedups(rows, variant, data)):.2f}x",
    )


def frontier_figure(rows: list[dict[str, Any]]) -> Figure:
    """Accuracy lost against speed-up, a panel a data set; full, at 1 and 0, is a ring."""
    names = list(dict.fromkeys(r["data"] for r in rows))
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, data in zip(panels, names, strict=True):
        axes.scatter(1, 0, s=180, facecolors="none", edgecolors="black", label="full")
        for variant in [name for name in VARIANTS if any(r["variant"] == name for r in rows)]:
            if variant == "full":
                continue
            gained = differences(rows, variant, data)
            faster = speedups(rows, variant, data)
            points = axes.scatter(faster, gained, alpha=0.5)
            color = points.get_facecolor()[0]
            mean = (statistics.mean(faster), statistics.mean(gained))
            axes.scatter(*mean, marker="D", s=70, color=color, alpha=1, label=variant)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(title=data, xlabel="speed-up over full")
    panels[0].set_ylabel("test accuracy minus full's, points")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    main()
