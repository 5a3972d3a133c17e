"""Write the tables of ``docs/simulation.md`` and draw ``docs/simulation.png``.

Run as ``python docs/draw_simulation.py``. A test compares both with what the code gives.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afcore.cluster import load_cluster, load_workload
from afcore.freezing.gradient_norm import GradientNorm
from afcore.planning.simulate import Simulation, simulate
from afcore.prices import resolve_prices
from pipelines.cli.simulate_shown import TRACE, simulate_file
from pipelines.plan_figures import simulation_figure
from pipelines.simulate_table import MODE_COLUMNS, mode_rows, workers_columns, workers_rows

__all__ = ["CASES", "PAGE", "PICTURE", "page", "points"]

PAGE = Path(__file__).parent / "simulation.md"
PICTURE = Path(__file__).parent / "simulation.png"
CASES = {
    "paper": ("paper-p100", "bert-base-agnews"),
    "bert-large": ("h100-8x8", "bert-large-agnews"),
    "decoder-8b": ("h100-8x8", "decoder-8b"),
}


def page(text: str) -> str:
    """The page with what stands between its markers written anew."""
    for name, (cluster, workload) in CASES.items():
        found, (of_cluster, of_workload) = simulate_file(cluster, TRACE, workload)
        parts = [
            f"{of_cluster}\n\n{of_workload}\n\nUS$ {found.gpu_hour_usd:g} a GPU-hour, batch "
            f"{found.batch_size}. {' '.join(found.notes)}",
            _table(MODE_COLUMNS, mode_rows(found)),
            "Minutes and dollars with fewer workers at most (the ratios above are of `full` on "
            f"{found.of('full').max_workers}):",
            _table(workers_columns(), workers_rows(found)),
        ]
        text = _between(text, name, "\n\n".join(parts))
    return _between(text, "ratios", _ratios())


def points() -> str:
    """What the picture shows, to six digits: sums may be added up in another order."""
    return "\n".join(json.dumps(_rounded(found.model_dump())) for found in _simulations())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _simulations() -> list[Simulation]:
    return [simulate_file(cluster, TRACE, workload)[0] for cluster, workload in CASES.values()]


def _ratios() -> str:
    name, workload = CASES["paper"]
    found = simulate_file(name, TRACE, workload)[0]
    cluster, job = load_cluster(name), load_workload(workload)
    ends = GradientNorm().possible_traces(job.num_blocks, num_epochs=4)
    prices = resolve_prices(cluster.prices)
    earliest = simulate(cluster, job, ends["all freezes at once"], job.num_blocks, prices)
    rows = [
        (
            f"`{mode}`: times {word}",
            published,
            *(f"{getattr(one.of(mode), ratio):.2f}x" for one in (found, earliest)),
        )
        for mode, word, published, ratio in (
            ("performance", "faster", "4.38x", "speedup"),
            ("efficiency", "cheaper", "5.03x", "saving"),
        )
    ]
    columns = (
        "than `full` on 64 GPUs",
        "paper",
        "ours, predicted, recorded trace",
        "ours, predicted, if all froze at the first decision",
    )
    first = found.of("performance").epoch_seconds[0] / found.of("full").seconds
    return (
        _table(columns, rows)
        + f"\n\nIn the recorded trace nothing freezes before the end of the first epoch, which "
        f"alone is {100 * first:.0f} % of `full`: whatever comes after it, no more than "
        f"{1 / first:.2f}x is to be had. The last column is an upper end that a "
        "median does not reach: it lets at most half of the blocks go at a decision."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)


def _between(text: str, name: str, content: str) -> str:
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    written, count = re.subn(
        pattern, lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"docs/simulation.md must have the markers of {name!r} once")
    return written


def main() -> None:
    """Write the page and draw the picture."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    figure = simulation_figure(_simulations())
    figure.savefig(PICTURE, dpi=110, metadata={"Description": points()})
    print(f"{PAGE.name}, {PICTURE.name}")


if __name__ == "__main__":
    main()
