"""Pictures of what is predicted: by number of workers, of a plan and of a simulation."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from afcore.planning.simulate import MODES, Simulation
from afcore.preview import PlanReport
from afcore.results.figures import MODE_COLORS

__all__ = ["pareto_figure", "simulation_figure"]


def pareto_figure(plan: PlanReport) -> Figure:
    """Predicted cost against predicted time, by number of workers; rings mark what is chosen.

    A panel for the first boundary, the middle one and the last. Numbers of workers that no other
    beats in both are joined by a line.
    """
    shown = [plan.boundaries[k] for k in sorted({0, plan.num_blocks // 2, plan.num_blocks - 1})]
    figure = Figure(figsize=(4.5 * len(shown), 4), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        alternatives = next(iter(row.workers.values())).alternatives
        points = sorted((one.seconds, one.cost_usd) for one in alternatives)
        front = [p for at, p in enumerate(points) if all(p[1] < q[1] for q in points[:at])]
        axes.plot(*zip(*front, strict=True), color="#d8dee9", zorder=0)
        axes.scatter(*zip(*points, strict=True), color="#4c566a", s=30)
        for one in alternatives:
            at, label = (one.seconds, one.cost_usd), str(one.setup.num_workers)
            axes.annotate(label, at, xytext=(5, 5), textcoords="offset points")
        for size, (mode, choice) in enumerate(row.workers.items()):
            axes.scatter(
                *(choice.forecast.seconds, choice.forecast.cost_usd),
                s=160 + 140 * size,
                facecolors="none",
                edgecolors=MODE_COLORS.get(mode),
                linewidths=2,
                label=mode,
            )
        axes.set(
            xlabel="predicted seconds", ylabel="predicted US dollars", title=plan.boundary_text(row)
        )
        axes.margins(0.2)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def simulation_figure(simulations: Sequence[Simulation]) -> Figure:
    """Predicted cost against predicted time, a panel a simulation, a line a mode.

    Along a line the number of workers grows; the largest is marked.
    """
    figure = Figure(figsize=(5.2 * len(simulations), 4.6), layout="constrained")
    panels = figure.subplots(1, len(simulations), squeeze=False)[0]
    for axes, found in zip(panels, simulations, strict=True):
        for mode in MODES:
            runs = sorted(
                (run for run in found.runs if run.mode == mode), key=lambda run: run.max_workers
            )
            minutes = [run.seconds / 60 for run in runs]
            dollars = [run.cost_usd for run in runs]
            color = MODE_COLORS.get(mode)
            axes.plot(minutes, dollars, ".-", color=color, label=mode, alpha=0.8)
            axes.plot(minutes[-1:], dollars[-1:], "o", color=color, markersize=9)
        axes.set(
            xlabel="predicted minutes",
            ylabel="predicted US dollars",
            title=f"{found.workload}\non {found.cluster}",
            xscale="log",
            yscale="log",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.title.set_fontsize(8)
        axes.grid(alpha=0.3, which="both")
    panels[0].legend()
    return figure
