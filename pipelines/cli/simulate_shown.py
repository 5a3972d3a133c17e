"""``autofreeze simulate``: a recorded training on a described cluster, in every mode."""

from pathlib import Path

from rich.console import Console

from afcore.cluster import load_cluster, load_workload
from afcore.errors import ConfigError
from afcore.planning.simulate import Simulation, simulate
from afcore.prices import SHIPPED, resolve_prices
from afcore.results.traces import load_recorded, recorded_trace
from pipelines.cli.consoles import say
from pipelines.cli.options import write_figure, write_report
from pipelines.plan_figures import simulation_figure
from pipelines.simulate_table import mode_table

__all__ = ["TRACE", "simulate_file", "simulate_report"]

TRACE = SHIPPED / "traces" / "agnews-gradient-norm.json"
"""Recorded by ``autofreeze run``: see docs/simulation.md."""


def simulate_report(
    cluster: str,
    trace: Path | None,
    workload: str | None,
    batch_size: int | None,
    report: Path | None,
    figure: Path | None,
    console: Console,
) -> None:
    """Simulate, print, and write what was asked for.

    Args:
        cluster: a YAML file, or the name of a shipped one.
        trace: report of ``run`` or ``compare``; None: the shipped one.
        workload: as ``cluster``; None: what the cluster names.
        batch_size: global; None: the workload's.
        report: JSON to write.
        figure: PNG to write.
        console: to print to.

    Raises:
        ConfigError: for a file, a price or a batch that cannot be used.
    """
    found, about = simulate_file(cluster, trace or TRACE, workload, batch_size)
    for table in mode_table(found):
        console.print(table)
    for note in (*found.notes, *about):
        say(note, console)
    write_report(report, found.model_dump(mode="json"))
    if figure is not None:
        write_figure(figure, simulation_figure([found]))


def simulate_file(
    cluster: str, trace: Path, workload: str | None = None, batch_size: int | None = None
) -> tuple[Simulation, tuple[str, str]]:
    """The simulation, and what the descriptions say about themselves.

    Raises:
        ConfigError: for a file, a price or a batch that cannot be used.
    """
    described = load_cluster(cluster)
    name = workload or described.workload
    if name is None:
        raise ConfigError(f"{cluster} names no workload; give one with --workload")
    job = load_workload(name)
    recorded = load_recorded(trace)
    try:
        found = simulate(
            described,
            job,
            recorded_trace(recorded),
            recorded.num_blocks,
            resolve_prices(described.prices),
            batch_size,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return found, (described.about, job.about)
