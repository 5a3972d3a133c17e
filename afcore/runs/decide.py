"""How each epoch of a run is to be trained: :mod:`afcore.planning` applied, live and in a plan.

The run's profile is measured once, before the first step (:mod:`.run_profile`). After each epoch
its own seconds correct the profile by one factor.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property

from afcore.activations.materialize import PrefixRunner
from afcore.config import CHOOSING_MODES, Config
from afcore.errors import ConfigError
from afcore.freezing.none import NoFreezing
from afcore.planning.choose import EpochChoice, choose_epoch
from afcore.planning.choose_workers import Allowed, Standing
from afcore.planning.forecast import EpochSetup, Forecast, Work, forecast_epoch
from afcore.planning.profile import Profile
from afcore.planning.run_forecast import RunForecast, Trace, forecast_run
from afcore.prices import resolve_prices
from afcore.runs.batches import batches_of
from afcore.runs.device_room import device_memory, place_set
from afcore.runs.records import done_reports
from afcore.runs.run import Run
from afcore.runs.run_profile import measure_run, read_profile, record_profile
from afcore.runs.spent import cost_outside, wall_seconds
from afcore.training.head import batches_to_solve_on
from afcore.training.trained import TrainedEpoch

__all__ = ["RunPlanner", "allowed_in", "lacks_profile", "possible_traces"]

_BUDGET_SECONDS = 1.5
_BUDGET_SHARE = 0.03  # of an unfrozen epoch: a short training should not be measured for long
_log = logging.getLogger(__name__)


def allowed_in(run: Run) -> Allowed:
    """What the run may use."""
    config, workers = run.config, run.config.workers
    caches = config.caches and run.record.uncacheable is None
    return Allowed(
        mode=config.mode,
        prices=resolve_prices(config.prices),
        batch_size=config.training.batch_size,
        max_workers=workers.max,
        min_workers=workers.min,
        micro_batch=workers.micro_batch,
        memory=device_memory(run),
        sets=config.cache.mode if caches else "off",
        deadline_seconds=workers.deadline_seconds,
        budget_usd=workers.budget_usd,
    )


def possible_traces(config: Config, num_blocks: int) -> dict[str, list[list[int]]] | None:
    """The ends of what may be decided in the configuration's mode; None: nothing is known.

    Where training may stop, it does so at the end of a cycle: of the first, unless the policy says
    when at the earliest.
    """
    policy, num_epochs = config.freezing, config.training.num_epochs
    if not config.freezes:
        policy = NoFreezing(intervals_per_epoch=policy.intervals_per_epoch)
    cycle = config.cycle_epochs or num_epochs
    traces = policy.possible_traces(num_blocks, num_epochs, cycle)
    if traces is None or cycle >= num_epochs or min(map(len, traces.values())) < num_epochs:
        return traces
    first = next(iter(traces.values()))
    return {f"stops after {cycle} epochs": first[:cycle], **traces}


def lacks_profile(run: Run) -> bool:
    """Whether something is to be decided from a profile that is not there, or is damaged."""
    return allowed_in(run).measures and read_profile(run) is None


class RunPlanner:
    """Decides for one run, and predicts it.

    Attributes:
        allowed: what the run may use.

    Args:
        run: open.
        runner: of the model, profiled as it is when it is measured, and the training split.
    """

    def __init__(self, run: Run, runner: PrefixRunner) -> None:
        self._run, self._runner = run, runner
        self.allowed = allowed_in(run)

    @cached_property
    def profile(self) -> Profile | None:
        """Recorded, or measured now; None where measuring would have to launch workers."""
        found = read_profile(self._run)
        if found is None and self.allowed.max_workers == 1:
            return self.measure(record=True)
        return found

    def measure(
        self,
        budget_seconds: float = _BUDGET_SECONDS,
        budget_share: float | None = _BUDGET_SHARE,
        *,
        record: bool,
    ) -> Profile:
        """Measure the model, the store and the workers, which are launched for it."""
        self.profile = measure_run(
            self._run,
            self._runner,
            budget_seconds=budget_seconds,
            budget_share=budget_share,
        )
        if record:
            record_profile(self._run, self.profile)
        return self.profile

    def start(self, boundary: int) -> Standing:
        """Before the first epoch."""
        config = self._run.config
        return Standing(
            epoch=1,
            num_epochs=config.training.num_epochs,
            boundary=boundary,
            builders=config.workers.max,
            solves_head=config.freezes and config.freezing.solves_head,
        )

    def choose(
        self, at: Standing, *, worked_seconds: float = 0.0, max_set_bytes: int | None = None
    ) -> EpochChoice | None:
        """How the next epoch is to be trained; None where no measurement decides it.

        Args:
            at: before it; what was spent is filled in.
            worked_seconds: of its builders in the epoch before, which is not recorded yet.
            max_set_bytes: a larger set is not built.
        """
        if not self.allowed.measures:
            return None
        if self.profile is None:
            _log.warning("epoch %d: profile.json is gone; it goes on as the one before", at.epoch)
            return None
        allowed = replace(self.allowed, max_set_bytes=max_set_bytes)
        at = self._with_spent(at, worked_seconds)
        choice = choose_epoch(self.profile, self.work(at.epoch), allowed, at)
        if choice.source is not None:
            _log.info("plan of epoch %d: %s", at.epoch, choice.source_text())
        if choice.workers is not None:
            _log.info("workers of epoch %d: %s", at.epoch, choice.workers.text())
        return choice

    def _with_spent(self, at: Standing, worked_seconds: float = 0.0) -> Standing:
        """With seconds and dollars so far, the epoch before and its evaluation included.

        With none where nobody asks: without a limit.
        """
        run, limits = self._run, self._run.config.workers
        if limits.deadline_seconds is None and limits.budget_usd is None:
            return at
        wall = wall_seconds(run)
        epochs = done_reports(run, at.epoch - 1)
        others = (at.builders - 1) * worked_seconds
        _, outside_usd = cost_outside(run, epochs, wall, others)
        dollars = outside_usd + sum(report.cost_usd for report in epochs)
        return replace(at, spent_seconds=wall, spent_usd=dollars)

    def forecasts(
        self,
        traces: Mapping[str, Trace],
        mode: str,
        at: Standing,
        existing: Collection[int] = (),
        *,
        tested: bool = True,
    ) -> list[RunForecast]:
        """Whole trainings in a mode, along each trace.

        Args:
            traces: boundaries by epoch and interval, by what they are.
            mode: of them.
            at: before the first epoch; its boundary does not matter.
            existing: boundaries of sets that the store has.
            tested: whether the test follows.
        """
        assert self.profile is not None
        sets = "off" if mode in ("full", "freeze") else self.allowed.sets
        allowed = replace(self.allowed, mode=mode, sets=sets)
        work, solves_head = self.work(1), at.solves_head and mode != "full"
        work = work if tested else replace(work, test_tokens=0)
        return [
            forecast_run(
                self.profile,
                work,
                allowed,
                trace,
                case=case,
                start=replace(at, boundary=trace[0][0], solves_head=solves_head),
                existing=existing,
            )
            for case, trace in traces.items()
        ]

    def check_limits(self) -> None:
        """Refuse a deadline or a budget that not even the best freezing could keep.

        Of a policy that does not know what it may decide, nothing is refused.

        Raises:
            ConfigError: with the best that can be reached.
        """
        config, workers = self._run.config, self._run.config.workers
        deadline, budget = workers.deadline_seconds, workers.budget_usd
        if self.allowed.mode not in CHOOSING_MODES or (deadline is None and budget is None):
            return
        if self.profile is None:
            return
        wanted = "budget_usd" if deadline is None else "deadline_seconds"
        traces = possible_traces(config, self._runner.split.num_blocks)
        if traces is None:
            _log.info(
                "whether workers.%s can be kept is not known beforehand: there is no forecast for "
                "freezing.policy %r",
                *(wanted, config.freezing.policy),
            )
            return
        at = self._with_spent(self.start(0))  # what preparing took counts
        forecasts = self.forecasts(traces, config.mode, at)
        if deadline is not None:
            best = min(forecasts, key=lambda one: one.seconds)
            limit, kept = f"{deadline:.1f} s", best.seconds <= deadline - at.spent_seconds
        else:
            assert budget is not None
            best = min(forecasts, key=lambda one: one.cost_usd)
            limit, kept = f"${budget:.4f}", best.cost_usd <= budget - at.spent_usd
        if not kept:
            raise ConfigError(
                f"workers.{wanted}: {limit} cannot be kept with up to {workers.max} workers; the "
                f"best predicted is {best.seconds + at.spent_seconds:.1f} s and "
                f"${best.cost_usd + at.spent_usd:.4f}, if blocks freeze as early as they may. Give "
                "it more, more workers, or fewer epochs."
            )

    def scale(
        self, epoch: int, read_boundary: int, trained: TrainedEpoch, num_workers: int = 1
    ) -> float:
        """How many times as long an epoch computed as the profile says; 1 without one.

        The exchange of gradients is taken to be as predicted, so that the factor is of computing
        alone, and holds for other numbers of workers too; at most half of the time is, since a link
        that is faster than measured must not be taken for computing that takes none.
        """
        if self.profile is None:
            return 1.0
        predicted = self._hindsight(self.profile, epoch, read_boundary, trained, num_workers)
        share = len(trained.steps) / self.work(epoch).num_steps
        measured = trained.prefix_seconds + trained.suffix_seconds
        exchanging = min(share * predicted.allreduce_seconds, measured / 2)
        computing = predicted.prefix_seconds + predicted.suffix_seconds
        return (measured - exchanging) / (share * computing) if computing else 1.0

    def error(
        self,
        epoch: int,
        choice: EpochChoice,
        trained: TrainedEpoch,
        num_workers: int = 1,
    ) -> float | None:
        """Predicted over actual seconds, less 1, for the boundaries that the epoch then had."""
        if self.profile is None:
            return None
        profile, reads = self.profile.scaled(choice.scale), choice.forecast.setup.read_boundary
        predicted = self._hindsight(profile, epoch, reads, trained, num_workers).train_seconds
        predicted *= len(trained.steps) / self.work(epoch).num_steps
        error = predicted / trained.train_seconds - 1
        _log.info(
            "epoch %d: predicted %.1f s for the boundaries it had, took %.1f s (%+.0f %%)",
            *(epoch, predicted, trained.train_seconds, 100 * error),
        )
        return error

    def _hindsight(
        self,
        profile: Profile,
        epoch: int,
        read_boundary: int,
        trained: TrainedEpoch,
        num_workers: int,
    ) -> Forecast:
        """The epoch, predicted once its boundaries are known."""
        setup = EpochSetup(
            boundaries=[step.boundary for step in trained.steps],
            read_boundary=read_boundary,
            num_workers=num_workers,
            accumulation=trained.num_passes / len(trained.steps),
            solves_head=epoch == 1 and self.start(0).solves_head and not trained.found_head,
        )
        return forecast_epoch(profile, self.work(epoch), setup)

    def work(self, epoch: int) -> Work:
        """What epoch ``epoch``, 1-based, goes through."""
        run, runner = self._run, self._runner
        lengths, batches = runner.examples.lengths, batches_of(run, runner.examples, epoch)
        work = Work.of(lengths, batches, runner.format.row_bytes)
        validation_tokens, test_tokens = self._scored_tokens
        solved = batches_to_solve_on(batches, run.record.task.num_outputs)
        return replace(
            work,
            solved_share=len(solved) / len(batches),
            reading=place_set(run, work.set_bytes),
            validation_tokens=validation_tokens,
            test_tokens=test_tokens,
            statistics=run.config.freezing.keeps_statistics,
        )

    @cached_property
    def _scored_tokens(self) -> tuple[int, int]:
        """Of (the validation split, the test split); they are read from the store for it."""
        data = self._run.data()
        test = 0 if data.test is None else int(data.test.lengths.sum())
        return int(data.validation.lengths.sum()), test
