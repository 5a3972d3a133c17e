"""``autofreeze replay``: what would another freezing policy have decided on a recorded run?"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.freezing.policy import FreezePolicy
from afcore.results.replay import EtaNoise, ReplayedInterval, eta_noise, replay
from afcore.results.report import RunReport
from afcore.results.traces import read_reports
from pipelines.tables import table

__all__ = ["replay_report"]


def replay_report(path: Path, policy: str, settings: Iterable[str], console: Console) -> None:
    """Print a replay of each run of a report that has statistics.

    Args:
        path: a report of ``run`` or ``compare``.
        policy: ``freezing.policy``.
        settings: ``key=value``, of the section ``freezing``.
        console: to print to.

    Raises:
        ConfigError: for a file that is no report, one without statistics, or a wrong setting.
    """
    chosen = _parsed(policy, settings)
    runs = [run for run in read_reports(path) if _can_be_replayed(run, chosen)]
    if not runs:
        raise ConfigError(
            f"{path} has no statistics to replay: mode full keeps none, and policies that look at "
            "losses alone none of gradients. Record a run with --set mode=freeze --set "
            "freezing.policy=none --report FILE."
        )
    for run in runs:
        try:
            done = replay(run, chosen)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        title = f"{run.mode}, seed {run.seed}: recorded boundary, and that of {policy}"
        rows = done.intervals
        if chosen.keeps_statistics:
            console.print(_table(title, rows, run.num_blocks))
        else:  # asked once an epoch, and not about gradients
            asked = {row.epoch: row for row in rows}
            console.print(_table(title, asked.values(), 0))
        if done.ended_early:
            console.print(f"Ended early: {escape(done.ended_early)}")
        if chosen.keeps_statistics:
            console.print(_noise_sentence(eta_noise(rows)))
        if chosen.stops:
            console.print(
                "Losses are those of the recorded run: a run of this policy's own has a learning "
                "rate that falls in cycles, and ends with a cycle after which it has settled."
            )


def _can_be_replayed(run: RunReport, policy: FreezePolicy) -> bool:
    """Whether the run has what the policy looks at."""
    if not policy.keeps_statistics:
        return bool(run.intervals)
    return any(norm for interval in run.intervals for norm in interval.gradient_norms)


def _parsed(policy: str, settings: Iterable[str]) -> FreezePolicy:
    section: dict[str, Any] = {"policy": policy}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r} is not of the form key=value")
        section[key.strip().removeprefix("freezing.")] = value.strip()
    tree = {"model": {"name": "-"}, "data": {"train": "-"}, "freezing": section}
    return parse_config(tree, source="replay").freezing


def _table(title: str, rows: Iterable[ReplayedInterval], num_blocks: int) -> Table:
    """With so many columns of eta."""
    columns = ["epoch", "step", "recorded", "replayed"]
    columns += [f"eta {block} (halves)" for block in range(num_blocks)]
    cells = []
    for row in rows:
        etas = [
            f"{_number(eta)} ({_number(half)})"
            for eta, half in zip(row.eta[:num_blocks], row.half_eta[:num_blocks], strict=True)
        ]
        replayed = f"{row.replayed}{', settled' * row.settled}"
        cells.append([str(row.epoch), str(row.step), str(row.recorded), replayed, *etas])
    return table(title, columns, cells, wrapped=4)


def _noise_sentence(noise: EtaNoise) -> str:
    if not noise.num_values:
        return "No two intervals to compare."
    return (
        f"Noise: over {noise.num_values} values the median eta is {noise.median_eta:.3f}; between "
        f"the two halves of one interval the same change is {noise.median_half_eta:.3f}. "
        f"{100 * noise.share_within_noise:.0f} % of the etas are no larger than the change inside "
        "their own interval. The gradients' coherence (1 is noise) has the median "
        f"{noise.first_coherence:.2f} in the first interval and {noise.later_coherence:.2f} later."
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
