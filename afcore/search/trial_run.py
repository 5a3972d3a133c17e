"""A trial: one or several ordinary runs, trained epoch by epoch; neither tested nor published."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from afcore.config import Config, SearchConfig
from afcore.data.fold import Fold
from afcore.errors import (
    AutoFreezeError,
    LeaseLostError,
    OrchestrationError,
    StoppedError,
    StorageFullError,
    StoreError,
    TrackingError,
    WorkerLostError,
    in_one_line,
    stop_behind,
)
from afcore.interrupt import stop_requested
from afcore.results.report import EpochReport
from afcore.runs.common_inputs import CommonInputs
from afcore.runs.identify import identify_run
from afcore.runs.launch_epoch import launch_epoch
from afcore.runs.records import CheckpointRecord, best_epoch, done_reports, plan_of, record_of
from afcore.runs.run import Run, begin_run, find_run, run_lease
from afcore.search.common_epochs import CommonEpochs
from afcore.search.search_report import EpochRow, MemberRow
from afcore.search.shared_profile import adopt_profile, offer_profile
from afcore.search.study import waited_for
from afcore.storage.objects import Storage
from afcore.tasks.scores import Score

__all__ = ["OUT_OF_MEMORY", "failure_line", "fold_of", "member_configs", "train_member"]

OUT_OF_MEMORY = "out of memory:"
"""How the line of a trial begins that failed of it."""
_NOT_OF_THE_TRIAL = (
    StoppedError,
    StoreError,
    StorageFullError,
    LeaseLostError,
    OrchestrationError,
    TrackingError,
)
"""What would end the next trial too, or is no failure."""
_NO_MEMORY = re.compile(r"out of memory|(allocate|enough) memory|MemoryError|_ALLOC_FAILED")
"""As torch says it of a CPU or a library of CUDA's, and workers of any device."""
_TRIES = 3
_log = logging.getLogger(__name__)


def member_configs(config: Config, search: SearchConfig) -> list[Config]:
    """The trainings of a trial: by seeds, or by folds."""
    if search.folds is not None:
        folds = (f"{number}/{search.folds}" for number in range(1, search.folds + 1))
        return [config.replace(**{"data.fold": fold}) for fold in folds]
    first = config.training.seed
    return [config.replace(**{"training.seed": first + number}) for number in range(search.seeds)]


def fold_of(config: Config) -> int | None:
    """Number of the fold that a training is scored on; None without folds."""
    return None if config.data.fold is None else Fold.parse(config.data.fold).number


def train_member(
    config: Config,
    storage: Storage,
    score: Score,
    known: MemberRow | None,
    common: CommonEpochs | None,
    note: Callable[[MemberRow], bool],
    inputs: CommonInputs | None = None,
) -> MemberRow:
    """Train a run to its end, without test and publication.

    Args:
        config: of the run.
        storage: where.
        score: that is sought to be best.
        known: what was recorded of it before a kill.
        common: epochs of other trials, and for them.
        note: told how far it is, before the first epoch too; says whether it should go on.
        inputs: what trials of this process have opened, and for them.

    Returns:
        All of it; not done where it should not go on.

    Raises:
        StoppedError: when this process was asked to stop.
        AutoFreezeError: for what cannot be trained or did not go well.
    """
    began = time.monotonic()
    record = identify_run(config, storage, common=inputs)
    with waited_for(run_lease(storage, record.run_id, since=began), seconds=1.0) as lease:
        member = known or MemberRow(
            seed=config.training.seed,
            fold=fold_of(config),
            run_id=record.run_id,
            num_found=_num_done(find_run(storage, record.run_id)),
        )
        run = begin_run(storage, record, common=inputs)
        adopt_profile(run)
        copied = common.adopt(run, lease.number) if common is not None else 0
        copied += member.num_copied
        member = member.model_copy(update={"epochs": [], "num_copied": copied})
        first_own = member.num_found + copied + 1
        # What was there before is known from now on, whenever this process is killed.
        goes_on = note(member)
        while goes_on and not member.done:
            epoch = len(member.epochs) + 1
            lease.check()
            report = _trained_epoch(run, epoch, lease.number)
            if epoch == first_own:
                offer_profile(run)
            if common is not None:
                common.offer(run, epoch)
            member = _with_epoch(run, member, report, score)
            goes_on = note(member)
            if goes_on and not member.done and stop_requested():
                raise StoppedError(f"after epoch {epoch}")
    return member


def _trained_epoch(run: Run, epoch: int, attempt: int) -> EpochReport:
    """An epoch; workers that are lost are started again, as the flow of a run does it."""
    for tries in range(1, _TRIES):
        try:
            return launch_epoch(run, epoch, attempt, tries=tries)
        except WorkerLostError as lost:
            _log.warning("%s It is tried again", lost)
    return launch_epoch(run, epoch, attempt, tries=_TRIES)


def _num_done(run: Run | None) -> int:
    """Epochs that were trained before."""
    count = 0
    while run is not None and record_of(run, count + 1, EpochReport) is not None:
        count += 1
    return count


def _with_epoch(run: Run, member: MemberRow, report: EpochReport, score: Score) -> MemberRow:
    checkpoint = record_of(run, report.epoch, CheckpointRecord)
    assert checkpoint is not None
    source = "continued" if report.resumed else "trained"
    if report.epoch <= member.num_found:
        source = "found"
    elif report.epoch <= member.num_found + member.num_copied:
        source = "copied"
    row = EpochRow(
        epoch=report.epoch,
        source=source,
        read_from=report.read_from,
        built=_built(run, report, checkpoint),
        seconds=report.seconds,
        cost_usd=report.cost_usd,
        validation=report.validation,
        finished=report.finished,
    )
    best = best_epoch(done_reports(run, report.epoch), run.config.main_score)
    return member.model_copy(
        update={
            "epochs": [*member.epochs, row],
            "score": best.validation[score.name],
            "done": checkpoint.next is None,
        }
    )


def _built(run: Run, report: EpochReport, checkpoint: CheckpointRecord) -> list[int]:
    """Boundaries of the sets that were built in an epoch: for it, and for the next one."""
    plan, boundaries = plan_of(run, report.epoch), []
    if checkpoint.built_bytes and plan is not None and plan.read_from is not None:
        boundaries.append(plan.read_from.boundary)
    following = checkpoint.next
    if report.activation_bytes_written > checkpoint.built_bytes:
        assert following is not None
        assert following.read_from is not None
        boundaries.append(following.read_from.boundary)
    return boundaries


@contextmanager
def failure_line(failed: list[str]) -> Iterator[None]:
    """Take what makes a trial fail as its one line; anything else goes on.

    Args:
        failed: gets the line.
    """
    try:
        yield
    except _NOT_OF_THE_TRIAL:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        failed.append(f"{OUT_OF_MEMORY} {in_one_line(error, 500)}")
    except AutoFreezeError as error:
        if stop_behind(error) is not None:
            raise
        failed.append(in_one_line(error, 500))
    except RuntimeError as error:
        if not _NO_MEMORY.search(str(error)):  # as an illegal access, after which nothing computes
            raise
        failed.append(f"{OUT_OF_MEMORY} {in_one_line(error, 500)}")
