"""``autofreeze report``: runs as one page, from files or from a store."""

from pathlib import Path

from afcore.errors import UserError
from afcore.results.page import report_page
from afcore.results.report import RunReport
from afcore.results.traces import read_reports
from afcore.storage.outputs import check_file, new_file
from pipelines.cli.status_shown import find_run_status

__all__ = ["write_report_page"]


def write_report_page(wanted: list[str], output: Path, store: str | None, default: str) -> int:
    """Write the page; the number of runs on it.

    Args:
        wanted: reports as JSON, configurations, or how runs' ids begin.
        output: of the page.
        store: root of the store that runs are looked for in.
        default: the same, of ids, where none is given.

    Raises:
        UserError: when a run is not there or not finished, or the file cannot be written.
    """
    reports = [report for one in wanted for report in _reports(one, store, default)]
    known = {(report.run_id, report.mlflow_run_id): report for report in reports}
    page = report_page(list(known.values()))
    with new_file(check_file(str(output))) as draft:
        draft.write_text(page, encoding="utf-8")
    return len(known)


def _holds_json(path: Path) -> bool:
    """Whether a file is a report, whatever its ending: no configuration begins so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(100).lstrip().startswith(b"{")


def _reports(wanted: str, store: str | None, default: str) -> list[RunReport]:
    if wanted.endswith(".json") or _holds_json(Path(wanted)):
        return read_reports(Path(wanted))
    status = find_run_status(wanted, [], store, default)
    if status.report is None:
        raise UserError(
            f"run {status.run_id} is {status.state}, and has no report before it is finished. "
            f"`autofreeze show {wanted}` tells how far it is"
        )
    return [status.report]
