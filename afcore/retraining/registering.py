"""The end of a retraining: the version is registered, compared with the champion, and judged."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from afcore.config import Config
from afcore.data.row_digests import digest_of_rows
from afcore.digest import recipe_digest
from afcore.errors import DataError, ModelError, UserError
from afcore.results.comparison import difference_of_rows, row_difference, rows_of_test
from afcore.results.paired import PairedDifference
from afcore.results.report import RunReport
from afcore.retraining.champion import ChampionAnswers, answers_of_champion
from afcore.retraining.champion_files import champion_folder
from afcore.retraining.judging import Verdict, judge
from afcore.retraining.looking import RowsTonight, note_move, recorded_move
from afcore.runs.run import Run, open_run
from afcore.storage.objects import Storage
from afcore.tasks.stored_tokens import PreparedData
from afcore.tracking.registry import ModelRegistry, ModelVersion

__all__ = ["Registered", "champion_before", "champion_on_added", "register_and_judge"]

_TEST_TAG = "autofreeze.test"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """The new version, the champion before it, and what became of the alias."""

    version: ModelVersion
    before: ModelVersion | None
    verdict: Verdict


def champion_before(
    config: Config,
    storage: Storage,
    tonight: RowsTonight,
    registry: ModelRegistry,
    *,
    fresh: bool,
) -> ModelVersion | None:
    """The champion that the retraining begins with; None where there is none.

    One that was interrupted, and is not begun anew (``fresh``), may have moved the alias already:
    it goes on with the champion that it began with.
    """
    now = registry.champion(config.registered_model)
    moved = None if fresh else recorded_move(storage, tonight)
    if now is None or moved is None or moved.version != now.version:
        return now
    if moved.before is None:
        return None
    known = registry.versions(config.registered_model)
    return next((version for version in known if version.version == moved.before), now)


def register_and_judge(
    config: Config,
    report: RunReport,
    tonight: RowsTonight,
    registry: ModelRegistry,
    before: ModelVersion | None,
) -> Registered:
    """Register a finished run's model, and move the alias if it is good enough.

    Args:
        config: of the training.
        report: of the run, which is in MLflow.
        tonight: the rows.
        registry: where.
        before: the champion, if there is one.
    """
    assert report.mlflow_run_id is not None
    run = open_run(config.store, report.run_id)
    data = run.data()
    version = registry.register(
        config.registered_model,
        report.mlflow_run_id,
        _tags(run, data, report, tonight),
        _description(report, tonight),
    )
    if before is not None and before.version == version.version:
        return Registered(
            version, before, Verdict(False, "not moved: this version is the champion already")
        )
    found, why_not = None, ""
    if before is not None and data.test is not None:
        found, why_not = _compare(run, report, tonight, registry, before)
    verdict = judge(
        report.main,
        found,
        has_test=data.test is not None,
        has_champion=before is not None,
        margin=config.retrain.margin,
        why_not=why_not,
    )
    if verdict.moves:
        had = None if before is None else before.version
        note_move(run.storage, tonight, version.version, had)
        registry.promote(version)
    registry.note(version, {"autofreeze.champion": verdict.reason})
    return Registered(version, before, verdict)


def champion_on_added(
    config: Config, tonight: RowsTonight, registry: ModelRegistry, champion: ModelVersion
) -> str | None:
    """In a sentence: how well the champion answers the rows added; None where none were."""
    if tonight.last is None or not len(tonight.added):
        return None
    score, what = config.main_score, f"the champion, version {champion.version}"
    try:
        found = _ask(config, tonight.added, registry, champion)
        value = found.score(score)
    except UserError as error:
        return f"{what}, cannot be asked about the rows added: {error}"
    if value is None:
        return f"{what}, has no {score.title} on the rows added: their labels are new to it"
    return f"{what}, on the {len(tonight.added):,} rows added: {score.title} {score.shown(value)}"


def _ask(
    config: Config, rows: Any, registry: ModelRegistry, champion: ModelVersion
) -> ChampionAnswers:
    folder = champion_folder(config, registry, champion)
    return answers_of_champion(folder, rows, config.cache.dtype)


def _compare(
    run: Run,
    report: RunReport,
    tonight: RowsTonight,
    registry: ModelRegistry,
    champion: ModelVersion,
) -> tuple[PairedDifference | None, str]:
    """The difference on the test rows; else None, and why."""
    mine = rows_of_test(report)
    if mine is None:
        return None, "the answers of the test were not kept"
    if digest_of_rows(tonight.digests["test"]) != run.data().row_digests.get("test"):
        return None, "the test set changed while the model was trained"
    if champion.tags.get(_TEST_TAG) == _test_digest(run, tonight):
        known = registry.report(champion)
        if known is not None and (found := row_difference(report, known)) is not None:
            return found, ""
    _log.info("version %s, the champion, is scored on tonight's test rows", champion.version)
    try:
        asked = _ask(run.config, tonight.splits["test"], registry, champion)
    except (ModelError, DataError) as error:
        return None, str(error)
    theirs = asked.rows_of(report.main, run.record.task, mine.get("labels"))
    if theirs is None:
        return None, "the champion's labels are other ones"
    return difference_of_rows(report.main, mine, theirs), "other numbers of answers"


def _test_digest(run: Run, tonight: RowsTonight) -> str:
    """Names the test rows in their order, and the numbers of the classes."""
    rows = hashlib.sha256(tonight.digests["test"].tobytes()).hexdigest()
    return recipe_digest([rows, run.record.task.class_names, run.config.main_score.name])[:32]


def _tags(run: Run, data: PreparedData, report: RunReport, tonight: RowsTonight) -> dict[str, str]:
    """What the version was trained on."""
    tags = {
        "autofreeze.run_id": report.run_id,
        "autofreeze.base_model": report.model,
        "autofreeze.train_rows": str(report.data.train_examples),
        "autofreeze.validation_rows": str(report.data.validation_examples),
        "autofreeze.test_rows": str(report.data.test_examples),
    }
    tags |= {f"autofreeze.{name}_digest": digest for name, digest in data.row_digests.items()}
    if report.totals.test is not None:
        tags[f"autofreeze.test_{report.score}"] = f"{report.totals.test[report.score]:.6f}"
        tags[_TEST_TAG] = _test_digest(run, tonight)
    return tags


def _description(report: RunReport, tonight: RowsTonight) -> str:
    split = "test" if report.totals.test is not None else "validation"
    return (
        f"Trained by `autofreeze retrain` in run {report.run_id} on "
        f"{report.data.train_examples:,} rows; {tonight.changes}. "
        f"{report.main.title} on {split}: {report.main.shown(report.main_score)}. {report.happened}"
    )
