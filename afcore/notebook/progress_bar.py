"""A bar over the steps of a run, as a notebook or a terminal shows it."""

from typing import Any

from tqdm.auto import tqdm

from afcore.interrupt import stop_requested
from afcore.results.report import EpochReport
from afcore.runs.run import Run
from afcore.runs.whole_run import Onlooker

__all__ = ["ProgressBar"]


class ProgressBar(Onlooker):
    """One bar: epochs are named before it, boundary and main score after it."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(desc="preparing", unit="step", leave=False)
        self._done = 0

    def begun(self, run: Run, num_steps: int) -> None:
        """The number of steps is known."""
        self._bar.close()
        self._bar = tqdm(total=num_steps, unit="step", desc=self._of_epoch(run, 1))

    def stepped(self) -> None:
        """One more."""
        self._bar.update()
        if stop_requested():
            self._bar.set_description("stopping")

    def epoch_done(self, run: Run, report: EpochReport) -> None:
        """Count what was found, or trained by workers, too."""
        self._done += report.num_steps
        self._bar.n = self._done
        main = run.config.main_score
        self._bar.set_postfix_str(
            f"validation {main.title} {main.shown(report.validation[main.name])}, "
            f"boundary {report.boundary_end} of {run.record.num_blocks}"
        )
        self._bar.set_description(self._of_epoch(run, report.epoch + 1))

    def trained(self) -> None:
        """Training may have ended early."""
        self._bar.total = self._bar.n
        self._bar.set_description("testing")

    def close(self, done: bool) -> None:
        """Leave the bar as it is."""
        if done and self._bar.total:
            self._bar.set_description("done")
        self._bar.close()

    def _of_epoch(self, run: Run, epoch: int) -> str:
        num_epochs = run.config.training.num_epochs
        return f"epoch {min(epoch, num_epochs)}/{num_epochs}"
