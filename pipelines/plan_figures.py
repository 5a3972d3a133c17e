"""Pictures of what is predicted: by number of workers, of a plan and of a simulation."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from afcore.planning.simulate import MODES, Simulation
from afcore.results.figures import MODE_COLORS

__all__ = ["Choice", "pareto_figure", "simulation_figure"]


@dataclass(frozen=True)
class Choice:
    """Alternatives of one decision, and which was taken.

    Attributes:
        name: what is decided.
        labels: of the alternatives.
        seconds: predicted.
        cost_usd: predicted.
        chosen: labels by the mode that takes them.
    """

    name: str
    labels: Sequence[str]
    seconds: Sequence[float]
    cost_usd: Sequence[float]
    chosen: dict[str, str]


def pareto_figure(choices: Sequence[Choice]) -> Figure:
    """Predicted cost against predicted time, a panel a decision; rings mark what is chosen.

    Alternatives that no other beats in both are joined by a line.
    """
    figure = Figure(figsize=(4.5 * len(choices), 4), layout="constrained")
    for axes, choice in zip(
        figure.subplots(1, len(choices), squeeze=False)[0], choices, strict=True
    ):
        points = sorted(zip(choice.seconds, choice.cost_usd, strict=True))
        front = [p for at, p in enumerate(points) if all(p[1] < q[1] for q in points[:at])]
        axes.plot(*zip(*front, strict=True), color="#d8dee9", zorder=0)
        axes.scatter(choice.seconds, choice.cost_usd, color="#4c566a", s=30)
        where = zip(choice.labels, choice.seconds, choice.cost_usd, strict=True)
        at = {label: (seconds, dollars) for label, seconds, dollars in where}
        for label, point in at.items():
            axes.annotate(label, point, xytext=(5, 5), textcoords="offset points")
        for size, (mode, label) in enumerate(choice.chosen.items()):
            axes.scatter(
                *at[label],
                s=160 + 140 * size,
                facecolors="none",
                edgecolors=MODE_COLORS.get(mode),
                linewidths=2,
                label=mode,
            )
        axes.set(xlabel="predicted seconds", ylabel="predicted US dollars", title=choice.name)
        axes.margins(0.2)
        axes.grid(alpha=0.3)
        if choice.chosen:
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
