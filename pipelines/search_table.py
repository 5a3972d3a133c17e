"""The table of a search: one row a trial, on the console, in MLflow and in Prefect."""

from rich.table import Table

from afcore.results.markdown import markdown_table
from afcore.search.search_report import LabelsReport, SearchReport, TrialRow
from afcore.search.study_forecast import StudyForecast
from pipelines.tables import ALL, table

__all__ = [
    "forecast_table",
    "labels_table",
    "members_table",
    "search_markdown",
    "search_notes",
    "search_table",
]


def search_table(report: SearchReport) -> Table:
    """For the console; the best trial in bold."""
    rows = [_cells(report, row) for row in report.trials]
    made = table(_title(report), _columns(report), rows, left=3, wrapped=ALL)
    made.columns[0].justify = "right"
    for row, shown in zip(report.trials, made.rows, strict=True):
        if row.number == report.best:
            shown.style = "bold"
    return made


def members_table(report: SearchReport) -> Table | None:
    """The trainings of the best trial, where it has several."""
    best = report.best_row
    if best is None or len(best.members) < 2:
        return None
    what = "Seeds" if best.members[0].fold is None else "Folds"
    columns = ("training", f"validation {report.score_title}", "run")
    rows = [(member.name, report.shown(member.score), member.run_id) for member in best.members]
    return table(f"{what} of trial {best.number}", columns, rows, wrapped=ALL)


def labels_table(report: LabelsReport) -> Table:
    """The best of each label column."""
    columns = ("label", "score", "trial", "on validation", "on test", "set built", "set read")
    rows = []
    for label, one in report.labels.items():
        best, test = one.best_row, (one.winner or {}).get("totals", {}).get("test")
        read, built = sets_of(one)
        cells = (
            label,
            one.score_title,
            "-" if best is None else str(best.number),
            one.shown(best.score if best else None),
            one.shown(test.get(one.score) if test else None),
            str(built),
            str(read),
        )
        rows.append(cells)
    return table("Best of each label column", columns, rows, left=2, wrapped=ALL)


def sets_of(report: SearchReport) -> tuple[int, int]:
    """(trainings that read a set, sets that were built for them)."""
    own = [epoch for row in report.trials for epoch in row.epochs if epoch.is_own]
    members = [member for row in report.trials for member in row.members]
    reading = [
        any(e.is_own and e.read_from.startswith("activations@") for e in member.epochs)
        for member in members
    ]
    return sum(reading), sum(len(epoch.built) for epoch in own)


def search_markdown(report: SearchReport) -> str:
    """For MLflow and Prefect."""
    rows = [_cells(report, row) for row in report.trials]
    lines = [f"## {_title(report)}", "", markdown_table(_columns(report), rows), ""]
    return "\n".join([*lines, *(f"* {note}" for note in search_notes(report))]) + "\n"


def search_notes(report: SearchReport) -> list[str]:
    """What stands below the table."""
    notes = []
    if report.stopped:
        notes.append(f"no more trials were begun: {report.stopped}.")
    if report.importance:
        shares = (f"{key} {100 * share:.0f} %" for key, share in report.importance.items())
        notes.append(f"importance for the score: {', '.join(shares)}.")
    whole = [e for row in report.trials for e in row.epochs]
    if whole:
        (reading, built), found = sets_of(report), sum(not epoch.is_own for epoch in whole)
        notes.append(
            f"{found} of {len(whole)} epochs were found or copied, {built} sets were built and "
            f"read by {reading} trainings; the tokens were {report.tokens}."
        )
    best = report.best_row
    if best is not None:
        notes.append(f"best: trial {best.number}, {report.shown(best.score)} on validation.")
    if report.proxy:
        notes.append(_proxied(report))
    if report.winner is not None:
        notes.append(_tested(report))
    return notes


def forecast_table(forecast: StudyForecast) -> Table:
    """What ``plan`` says of a study: its totals, with sharing and without."""
    columns = ["if", "trials"]
    for unit in ("epochs", "s", "MB", "US$"):
        columns += [f"{unit} shared", f"{unit} alone"]
    cases = {
        "each stops early": forecast.shortest,
        "none stops": forecast.longest,
        "then, for the best": forecast.winners,
    }
    lines = [
        (
            case,
            str(len(rows)),
            str(sum(row.epochs for row in rows)),
            str(sum(row.epochs_alone for row in rows)),
            f"{sum(row.seconds for row in rows):.0f}",
            f"{sum(row.seconds_alone for row in rows):.0f}",
            f"{sum(row.set_bytes for row in rows) / 1e6:.0f}",
            f"{sum(row.set_bytes_alone for row in rows) / 1e6:.0f}",
            f"{sum(row.cost_usd for row in rows):.4f}",
            f"{sum(row.cost_usd_alone for row in rows):.4f}",
        )
        for case, rows in cases.items()
    ]
    made = table("Predicted study", columns, lines, left=1, wrapped=ALL)
    if forecast.are_stand_ins:
        made.caption = "The sampler looks at scores; random trials stand in for its own."
    return made


def _proxied(report: SearchReport) -> str:
    """With what trials were made cheaper, and what the best one has without it."""
    proxy = ", ".join(f"{key}={_value(value)}" for key, value in report.proxy.items())
    said = f"trials were trained with {proxy}"
    if report.winner is None:
        return f"{said}."
    score = report.winner["totals"]["validation"].get(report.score)
    return f"{said}; trained as configured, the best one has {report.shown(score)} on validation."


def _tested(report: SearchReport) -> str:
    assert report.winner is not None
    test = report.winner["totals"]["test"]
    if test is None:
        return "there is no test set; the best trial's model is published."
    return (
        f"the test set was read once, for the best trial alone, after the last one: "
        f"{report.shown(test.get(report.score))}."
    )


def _title(report: SearchReport) -> str:
    better = "highest" if report.higher_is_better else "lowest"
    return f"Search for the {better} {report.score_title} on validation, study {report.study_id}"


def _columns(report: SearchReport) -> list[str]:
    keys = _keys(report)
    return ["trial", "state", "shared", *keys, report.score_title, "epochs", "seconds", "US$"]


def _keys(report: SearchReport) -> list[str]:
    """That any trial varied."""
    return list(dict.fromkeys(key for row in report.trials for key in row.values))


def _cells(report: SearchReport, row: TrialRow) -> list[str]:
    score = report.shown(row.score)
    if row.interval is not None:
        scale, unit = (100, " points") if report.in_percent else (1, "")
        score += f" ± {scale * row.interval:.2f}{unit}"
    return [
        str(row.number),
        row.state if row.why is None else f"{row.state}: {row.why}",
        row.shared(),
        *(_value(row.values[key]) if key in row.values else "-" for key in _keys(report)),
        score,
        str(len(row.epochs)),
        f"{row.seconds:.1f}",
        f"{row.cost_usd:.4f}",
    ]


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
