"""Checkpoints within an epoch, written in the background while it trains on.

At a decision the state is copied, and a thread writes it, as the ``partial.json`` that a stop would
leave (docs/decisions/0019): an epoch that is killed goes on from there.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from afcore.errors import AutoFreezeError, LeaseLostError
from afcore.runs.checkpoint import collect_parts
from afcore.runs.records import (
    CheckpointRecord,
    PartialRecord,
    best_epoch,
    commit_record,
    done_reports,
    record_of,
)
from afcore.runs.run import Run
from afcore.runs.state import OpenState
from afcore.training.trained import TrainedEpoch

__all__ = ["CheckpointsWithin", "collect_checkpoints"]

MOST_SHARE = 0.03
LEAST_SECONDS = 10.0
_ASSUMED_SECONDS = 1.0
_log = logging.getLogger(__name__)


class CheckpointsWithin:
    """Of one epoch; its first worker has them.

    One is written when the last write took at most :data:`MOST_SHARE` of the time since.

    Args:
        run: the caller holds its lease.
        epoch: that is trained.
        attempt: at the run.
        state: which the epoch changes.
    """

    def __init__(self, run: Run, epoch: int, attempt: int, state: OpenState) -> None:
        self._run, self._epoch, self._attempt, self._state = run, epoch, attempt, state
        before = state.partial or (
            record_of(run, epoch - 1, CheckpointRecord) if epoch > 1 else None
        )
        self._last_seconds = before.checkpoint_seconds if before else _ASSUMED_SECONDS
        self._since = time.monotonic()
        self._thread: threading.Thread | None = None
        self._lost: LeaseLostError | None = None

    def __enter__(self) -> "CheckpointsWithin":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def tell(self, num_steps: int, intervals: int) -> None:
        """Say in the log what a kill would cost."""
        _log.info(
            "epoch %d: killed, it repeats what came after its last checkpoint; one is written at a "
            "decision (every %d steps of %d) when that takes at most %.0f %% of the time since",
            *(self._epoch, max(1, round(num_steps / intervals)), num_steps, 100 * MOST_SHARE),
        )

    def keep(self, trained: Callable[[], TrainedEpoch]) -> None:
        """Write one, if it is due.

        Args:
            trained: gives what was trained of the epoch until now.

        Raises:
            LeaseLostError: when another process took the run over.
        """
        waited = time.monotonic() - self._since
        if waited < LEAST_SECONDS or self._last_seconds > MOST_SHARE * waited:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self.finish()
        began = time.perf_counter()
        state = replace(self._state, training=replace(self._state.training, sums=None))
        encoded = list(state.encoded())
        self._since = time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(state, trained(), encoded, began), name="checkpoint"
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait for what is being written; then others may write and collect parts.

        Raises:
            LeaseLostError: when another process took the run over.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._lost is not None:
            raise self._lost

    def _write(
        self,
        state: OpenState,
        trained: TrainedEpoch,
        encoded: list[tuple[str, bytes]],
        began: float,
    ) -> None:
        run, epoch = self._run, self._epoch
        try:
            saved = state.save(run, epoch, self._attempt, trained, began, encoded=encoded)
            record = PartialRecord(**saved, sums=None)
            commit_record(run, record, self._attempt)
            self._last_seconds = time.perf_counter() - began
            collect_checkpoints(run, epoch - 1, record)
        except LeaseLostError as error:
            self._lost = error
        except AutoFreezeError as error:  # the end of the epoch will meet it too
            _log.warning(
                "epoch %d: no checkpoint at step %d: %s", epoch, state.training.step, error
            )
        else:
            _log.info(
                "epoch %d: checkpoint after step %d, written in %.1f s; killed now, it goes on "
                "from there",
                *(epoch, state.training.step, self._last_seconds),
            )


def collect_checkpoints(run: Run, epoch: int, within: PartialRecord | None = None) -> None:
    """Keep the checkpoints that a restart (the last) or publishing (the best) will open.

    Args:
        run: the caller holds its lease.
        epoch: the last that is done; 0: none is.
        within: the epoch after it, too.
    """
    kept: list[CheckpointRecord | PartialRecord | None] = [within]
    reports = done_reports(run, epoch)
    epochs = {best_epoch(reports, run.config.main_score).epoch, epoch} if reports else set[int]()
    kept += [record_of(run, one, CheckpointRecord) for one in epochs]
    parts = [record.parts for record in kept if record is not None]
    freed = collect_parts(run.storage, run.parts_folder, parts)
    _log.info("kept checkpoints %s, freed %.1f MB", sorted(epochs), freed / 1e6)
