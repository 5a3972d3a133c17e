"""What an epoch of a run reads and on how many workers it trains: :mod:`afcore.planning` applied.

The run's profile is measured once, before the first step, and kept in its folder, so that a restart
decides from the same figures. After each epoch its own seconds correct the profile by one factor.
"""

import dataclasses
import logging
from functools import cached_property

from afcore.activations.materialize import PrefixRunner
from afcore.compute import Compute
from afcore.config import CHOOSING_MODES
from afcore.cost import Usage, cost_usd
from afcore.data.prepare import Examples
from afcore.errors import ConfigError
from afcore.measuring.profile import measure_profile
from afcore.model.blocks import SplitModel
from afcore.planning.forecast import forecast_run
from afcore.planning.resources import ResourceDecision, choose_resources
from afcore.planning.scaling import RunWork, forecast_epoch_on
from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import Profile, Work
from afcore.prices import resolve_prices
from afcore.runs.records import done_reports
from afcore.runs.run import Run, read_record
from afcore.runs.spent import cost_outside, wall_seconds
from afcore.runs.work import device_memory, epoch_work, place_set, resources_of
from afcore.training.trained import TrainedEpoch

__all__ = ["EpochPlanner", "profile_seconds"]

_RUN_BUDGET_SECONDS = 1.5
_RUN_BUDGET_SHARE = 0.03  # of an unfrozen epoch: a short training should not be measured for long
_log = logging.getLogger(__name__)


def profile_seconds(run: Run) -> float:
    """That measuring the run's profile took; 0 where nothing was measured."""
    profile = read_record(run.storage, _profile_key(run), Profile, replaceable=True)
    return profile.seconds if profile is not None else 0.0


def _profile_key(run: Run) -> str:
    return f"{run.folder}/profile.json"


class EpochPlanner:
    """Decides for one run.

    Args:
        run: open.
        split: the model; profiled as it is when the first decision is due.
        examples: the training split.
        compute: device and precision.
        runner: of the same model and examples.
    """

    def __init__(
        self,
        run: Run,
        split: SplitModel,
        examples: Examples,
        compute: Compute,
        runner: PrefixRunner,
    ) -> None:
        self._run = run
        self._split = split
        self._examples = examples
        self._compute = compute
        self._runner = runner
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        """Recorded, or measured now."""
        if self._profile is None:
            key = _profile_key(self._run)
            self._profile = read_record(self._run.storage, key, Profile, replaceable=True)
            if self._profile is None:
                self._profile = measure_profile(
                    self._run,
                    self._split,
                    self._examples,
                    self._compute,
                    self._runner,
                    budget_seconds=_RUN_BUDGET_SECONDS,
                    budget_share=_RUN_BUDGET_SHARE,
                )
                self._run.storage.put(key, self._profile.model_dump_json().encode())
        return self._profile

    def next_epoch(
        self,
        epoch: int,
        *,
        boundary: int,
        read_boundary: int,
        exists: bool,
        measured: bool,
        builders: int = 1,
        worked_seconds: float = 0.0,
        scale: float = 1.0,
        max_set_bytes: int | None = None,
    ) -> tuple[SourceDecision | None, ResourceDecision | None]:
        """What epoch ``epoch`` and those after it should read, and its workers.

        Args:
            epoch: the next one, 1-based.
            boundary: as it starts.
            read_boundary: of the set at hand; 0 for none.
            exists: whether the store has the set at ``boundary``.
            measured: whether measurements decide what is read; else the configuration has.
            builders: workers of the epoch before, which would build a set.
            worked_seconds: they have trained and evaluated for so long.
            scale: of the profile's seconds.
            max_set_bytes: a larger set is not built.

        Returns:
            None where nothing was to be decided.
        """
        config = self._run.config
        decision, build_seconds = None, 0.0
        spent = self._spent(epoch, builders, worked_seconds)
        if measured:
            work = self._work(epoch)
            # As many workers as would be chosen if the set were there.
            workers = self._workers(epoch, boundary, boundary, scale, self._left(spent))
            decision = choose_source(
                self.profile,
                work,
                boundary=boundary,
                read_boundary=read_boundary,
                exists=exists,
                epochs_left=config.training.num_epochs - epoch + 1,
                reading=place_set(self._run, work.set_bytes),
                statistics=self._decides,
                scale=scale,
                max_set_bytes=max_set_bytes,
                num_workers=workers.num_workers if workers else config.workers.max,
                build_workers=builders,
            )
            _log.info("plan of epoch %d: %s", epoch, decision.text())
            read_boundary = decision.read_boundary
            build_seconds = decision.build_seconds
        left = self._left(spent, builders, build_seconds)
        resources = self._workers(epoch, boundary, read_boundary, scale, left)
        if resources is not None:
            _log.info("workers of epoch %d: %s", epoch, resources.text())
        return decision, resources

    def _workers(
        self,
        epoch: int,
        boundary: int,
        read_boundary: int,
        scale: float,
        left: tuple[float | None, float | None],
    ) -> ResourceDecision | None:
        """None where the mode does not choose."""
        config = self._run.config
        if config.mode not in CHOOSING_MODES or config.workers.max == 1:
            return None
        return choose_resources(
            self.profile.scaled(scale),
            self._run_work(epoch),
            boundary,
            read_boundary,
            mode=config.mode,
            max_workers=config.workers.max,
            batch_size=config.training.batch_size,
            prices=resolve_prices(config.prices),
            min_workers=config.workers.min,
            micro_batch=config.workers.micro_batch,
            memory=device_memory(self._run, self._split),
            epochs_left=config.training.num_epochs - epoch + 1,
            first=epoch == 1,
            last=epoch == config.training.num_epochs,
            deadline_seconds=left[0],
            budget_usd=left[1],
        )

    def _spent(
        self, epoch: int, num_workers: int, worked_seconds: float
    ) -> tuple[float, float] | None:
        """Seconds and dollars so far, the epoch before ``epoch`` and its evaluation included.

        That one was on ``num_workers``. None where nobody asks: without a limit.
        """
        run, limits = self._run, self._run.config.workers
        if limits.deadline_seconds is None and limits.budget_usd is None:
            return None
        wall = wall_seconds(run)
        epochs = done_reports(run, epoch - 1)
        others = (num_workers - 1) * worked_seconds
        _, outside_usd = cost_outside(run, epochs, wall, others)
        return wall, outside_usd + sum(report.cost_usd for report in epochs)

    def _left(
        self, spent: tuple[float, float] | None, num_workers: int = 1, build_seconds: float = 0.0
    ) -> tuple[float | None, float | None]:
        """Of (the deadline, the budget), once ``num_workers`` have also built a set."""
        if spent is None:
            return None, None
        config = self._run.config
        if config.workers.deadline_seconds is not None:
            return config.workers.deadline_seconds - spent[0] - build_seconds, None
        assert config.workers.budget_usd is not None
        building = Usage(worker_seconds=num_workers * build_seconds)
        building_usd = cost_usd(building, resolve_prices(config.prices))
        return None, config.workers.budget_usd - spent[1] - building_usd

    def check_limits(self) -> None:
        """Refuse a deadline or a budget that not even the best freezing could keep.

        Of a policy that does not know what it may decide, nothing is refused.

        Raises:
            ConfigError: with the best that can be reached.
        """
        config, workers = self._run.config, self._run.config.workers
        if config.mode not in CHOOSING_MODES:
            return
        spent = self._spent(1, 1, 0.0)  # what preparing took counts
        if spent is None:
            return
        traces = self._possible_traces()
        if traces is None:
            _log.info(
                "whether workers.%s can be kept is not known beforehand: there is no forecast for "
                "freezing.policy %r",
                "budget_usd" if workers.deadline_seconds is None else "deadline_seconds",
                config.freezing.policy,
            )
            return
        deadline, budget = self._left(spent)
        resources = dataclasses.replace(
            resources_of(config, device_memory(self._run, self._split)),
            deadline_seconds=deadline,
            budget_usd=budget,
        )
        forecasts = [
            forecast_run(
                self.profile,
                self._run_work(1),
                trace,
                mode=config.mode,
                case=case,
                cache_mode=config.cache.mode,
                prices=resolve_prices(config.prices),
                resources=resources,
            )
            for case, trace in traces.items()
        ]
        if deadline is not None:
            best = min(forecasts, key=lambda one: one.seconds)
            wanted, limit = "deadline_seconds", f"{workers.deadline_seconds:.1f} s"
            kept = best.seconds <= deadline
        else:
            assert budget is not None
            best = min(forecasts, key=lambda one: one.cost_usd)
            wanted, limit = "budget_usd", f"${workers.budget_usd:.4f}"
            kept = best.cost_usd <= budget
        if not kept:
            raise ConfigError(
                f"workers.{wanted}: {limit} cannot be kept with up to {workers.max} workers; the "
                f"best predicted is {best.seconds + spent[0]:.1f} s and "
                f"${best.cost_usd + spent[1]:.4f}, if blocks freeze as early as they may. Give it "
                "more, more workers, or fewer epochs."
            )

    def _possible_traces(self) -> dict[str, list[list[int]]] | None:
        config = self._run.config
        return config.freezing.possible_traces(self._split.num_blocks, config.training.num_epochs)

    def _run_work(self, epoch: int) -> RunWork:
        work, (validation_tokens, test_tokens) = self._work(epoch), self._scored_tokens
        return RunWork(
            epoch=work,
            reading=place_set(self._run, work.set_bytes),
            validation_tokens=validation_tokens,
            test_tokens=test_tokens,
            statistics=self._decides,
        )

    @cached_property
    def _scored_tokens(self) -> tuple[int, int]:
        """Of (the validation split, the test split); they are read from the store for it."""
        data = self._run.data()
        return len(data.validation.tokens), len(data.test.tokens) if data.test else 0

    def scale(
        self, epoch: int, read_boundary: int, trained: TrainedEpoch, num_workers: int = 1
    ) -> float:
        """How many times as long an epoch computed as the profile says."""
        compute = trained.prefix_seconds + trained.suffix_seconds
        predicted = self._hindsight(epoch, read_boundary, trained, 1.0, num_workers)
        return compute / predicted[0]

    def error(
        self,
        epoch: int,
        decision: SourceDecision,
        trained: TrainedEpoch,
        train_seconds: float,
        num_workers: int = 1,
    ) -> float:
        """Predicted over actual seconds, less 1, for the boundaries that the epoch then had."""
        compute, read = self._hindsight(
            epoch, decision.read_boundary, trained, decision.scale, num_workers
        )
        error = (compute + read) / train_seconds - 1
        _log.info(
            "epoch %d: predicted %.1f s for the boundaries it had, took %.1f s (%+.0f %%)",
            *(epoch, compute + read, train_seconds, 100 * error),
        )
        return error

    def _hindsight(
        self,
        epoch: int,
        read_boundary: int,
        trained: TrainedEpoch,
        scale: float,
        num_workers: int,
    ) -> tuple[float, float]:
        """Predicted seconds of (computing, reading) once the boundaries are known."""
        work = self._work(epoch)
        forecast = forecast_epoch_on(
            self.profile.scaled(scale),
            work,
            [step.boundary for step in trained.steps],
            num_workers=num_workers,
            read_boundary=read_boundary,
            reading=place_set(self._run, work.set_bytes),
            statistics=self._decides,
            accumulation=trained.num_passes / len(trained.steps),
        )
        compute = forecast.prefix_seconds + forecast.suffix_seconds + forecast.allreduce_seconds
        return compute, forecast.read_seconds

    @property
    def _decides(self) -> bool:
        return self._run.config.freezing.keeps_statistics

    def _work(self, epoch: int) -> Work:
        return epoch_work(self._run, self._examples, self._runner, epoch)
