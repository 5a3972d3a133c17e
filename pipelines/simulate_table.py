"""A simulation for people: every mode with all workers, and every mode by workers."""

from rich.table import Table

from afcore.planning.simulate import MODES, Simulation
from pipelines.tables import ALL, table

__all__ = ["MODE_COLUMNS", "mode_rows", "mode_table", "workers_columns", "workers_rows"]

MODE_COLUMNS = (
    "mode",
    "workers by epoch",
    "s by epoch",
    "reads at",
    "min",
    "US$",
    "times faster",
    "times cheaper",
)


def mode_rows(found: Simulation) -> list[tuple[str, ...]]:
    """One row a mode that may use all workers; faster and cheaper than full on all."""
    rows = []
    for mode in MODES:
        run = found.of(mode)
        rows.append(
            (
                mode + ("" if run.fits else " (memory too small)"),
                ", ".join(map(str, run.epoch_workers)),
                ", ".join(f"{seconds:.0f}" for seconds in run.epoch_seconds),
                ", ".join(str(at) if at else "-" for at in run.read_boundaries),
                f"{run.seconds / 60:.1f}",
                f"{run.cost_usd:.2f}",
                f"{run.speedup:.2f}x",
                f"{run.saving:.2f}x",
            )
        )
    return rows


def workers_columns() -> tuple[str, ...]:
    """Of :func:`workers_rows`."""
    return ("workers at most", *(f"{mode}: min, US$" for mode in MODES))


def workers_rows(found: Simulation) -> list[tuple[str, ...]]:
    """One row a number of workers, one cell a mode."""
    by_count: dict[int, dict[str, str]] = {}
    for run in found.runs:
        cell = f"{run.seconds / 60:.1f}, {run.cost_usd:.2f}{'' if run.fits else ' (!)'}"
        by_count.setdefault(run.max_workers, {})[run.mode] = cell
    return [
        (str(count), *(cells[mode] for mode in MODES)) for count, cells in sorted(by_count.items())
    ]


def mode_table(found: Simulation) -> list[Table]:
    """Both, for a terminal."""
    headline = (
        f"{found.workload} on {found.cluster}; batch {found.batch_size}, "
        f"US$ {found.gpu_hour_usd:g} a GPU-hour; predicted"
    )
    return [
        table(headline, MODE_COLUMNS, mode_rows(found), left=ALL, wrapped=ALL),
        table("With fewer workers", workers_columns(), workers_rows(found), left=ALL, wrapped=ALL),
    ]
