"""Runs as one HTML page that needs nothing beside it and asks nothing of anybody.

What it shows comes from reports alone: of one run, of a comparison, or of any runs on one task.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from afcore.errors import UserError
from afcore.results.comparison import row_difference
from afcore.results.figures import MODE_COLORS
from afcore.results.model_title import model_title
from afcore.results.page_figures import (
    boundary_svg,
    epoch_seconds_svg,
    predicted_svg,
    score_cost_svg,
    tier_bytes_svg,
)
from afcore.results.report import RunReport

__all__ = ["report_page"]

_TEMPLATE = Path(__file__).with_name("report.html")
_BASELINES = ("full", "hf_trainer")


def report_page(reports: Sequence[RunReport]) -> str:
    """The page.

    Args:
        reports: at least one, all scored alike.

    Raises:
        UserError: when they are scored by different scores, and so cannot stand in one picture.
    """
    scores = {(report.task, report.score) for report in reports}
    if len(scores) > 1:
        names = ", ".join(sorted(f"{task} by {score}" for task, score in scores))
        raise UserError(f"these runs cannot be shown on one page: {names}. Give a page to each")
    first = reports[0]
    return _template().render(
        title=_title(reports),
        subtitle=(
            f"{first.task}, {first.num_blocks} blocks, {first.data.train_examples:,} rows to train "
            f"on, {first.data.validation_examples:,} to validate, "
            f"{first.data.test_examples:,} to test"
        ),
        cards=_cards(reports),
        columns=_columns(reports),
        rows=[_row(report, reports) for report in reports],
        caption=_caption(reports),
        score_title=f"{first.main.title[:1].upper()}{first.main.title[1:]}",
        better="up" if first.main.higher_is_better else "down",
        score_cost=_safe(score_cost_svg(reports)) if len(reports) > 1 else None,
        runs=[_run(report) for report in reports],
    )


def _template() -> jinja2.Template:
    """Everything is escaped, names of models and notes too, but for our own pictures."""
    loader = jinja2.FileSystemLoader(_TEMPLATE.parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(_TEMPLATE.name)


def _title(reports: Sequence[RunReport]) -> str:
    models = list(dict.fromkeys(model_title(report.model) for report in reports))
    modes = list(dict.fromkeys(report.mode for report in reports))
    return f"{', '.join(models)}: {', '.join(modes)}"


def _cards(reports: Sequence[RunReport]) -> list[dict[str, str]]:
    """Of the run that freezes, or else of the last one."""
    told = next((one for one in reports if one.policy is not None), reports[-1])
    split = "test" if told.totals.test else "validation"
    cards = [
        (told.main.shown(told.main_score), f"{split} {told.main.title}, {told.mode}"),
        (f"{told.totals.wall_seconds:.1f} s", "from start to end"),
        (f"${told.totals.cost_usd:.4f}", "cost"),
        (f"{told.epochs[-1].boundary_end} of {told.num_blocks}", "blocks frozen at the end"),
    ]
    full = _peer(told, reports)
    if full is not None:
        gain = full.paid_seconds / told.paid_seconds
        cards.insert(1, (f"{gain:.1f}x", f"faster than {full.mode}"))
    return [{"value": value, "label": label} for value, label in cards]


def _peer(report: RunReport, reports: Sequence[RunReport]) -> RunReport | None:
    """What it is compared with: of the same seed."""
    for mode in _BASELINES:
        for other in reports:
            if (other.mode, other.seed) == (mode, report.seed) and other is not report:
                return other
    return None


def _columns(reports: Sequence[RunReport]) -> list[str]:
    title = reports[0].main.title
    return [
        *("run", f"validation {title}", f"test {title}", "train s", "cache s", "wall s"),
        *("speed-up", "frozen", "written MB", "US$"),
    ]


def _row(report: RunReport, reports: Sequence[RunReport]) -> dict[str, Any]:
    totals, main, peer = report.totals, report.main, _peer(report, reports)
    test = main.shown(totals.test[main.name]) if totals.test else "-"
    speedup = f"{peer.paid_seconds / report.paid_seconds:.2f}x" if peer is not None else "-"
    cells = [
        f"{report.mode}, seed {report.seed}",
        main.shown(totals.validation[main.name]),
        test,
        f"{totals.train_seconds:.1f}",
        f"{totals.materialize_seconds:.1f}",
        f"{totals.wall_seconds:.1f}",
        "1" if report.mode == "full" else speedup,
        f"{report.epochs[-1].boundary_end} of {report.num_blocks}",
        f"{totals.activation_bytes_written / 1e6:.1f}",
        f"{totals.cost_usd:.4f}",
    ]
    return {"color": MODE_COLORS.get(report.mode, "#2e3440"), "cells": cells}


def _caption(reports: Sequence[RunReport]) -> list[str]:
    """Is the difference noise? Only for runs whose answers to the same test rows are known."""
    lines = []
    for report in reports:
        peer = _peer(report, reports)
        found = row_difference(report, peer) if peer is not None else None
        if found is not None and peer is not None and report.mode != "full":
            factor, unit = (100, " points") if report.main.in_percent else (1, "")
            low, high = factor * found.low, factor * found.high
            noise = ": within noise" if low <= 0 <= high else ""
            lines.append(
                f"{report.mode}, seed {report.seed}, less {peer.mode}: "
                f"{factor * found.mean:+.2f}{unit} on the same test rows, 95 % interval "
                f"{low:+.2f} to {high:+.2f}{noise}."
            )
    return lines


def _run(report: RunReport) -> dict[str, Any]:
    decided = any(x is not None for one in report.decisions for x in one.eta)
    happened = report.happened
    return {
        "title": f"{report.mode}, {report.policy}" if report.policy else report.mode,
        "story": f"{happened[:1].upper()}{happened[1:]}." if happened else "",
        "statistic": "the statistic that decides" if decided else "the losses",
        "boundary": _safe(boundary_svg(report)),
        "seconds": _safe(epoch_seconds_svg(report)),
        "predicted": _safe(predicted_svg(report)),
        "tiers": _safe(tier_bytes_svg(report)),
        "notes": report.notes,
        "run_id": report.run_id,
        "mlflow_run_id": report.mlflow_run_id,
    }


def _safe(svg: str | None) -> Any:
    return None if svg is None else Markup(svg)
