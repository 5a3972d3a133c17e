"""The state of a training between its steps: opened from what was committed, committed anew."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from afcore.digest import ContentDigest
from afcore.errors import IntegrityError
from afcore.freezing.policy import FreezePolicy, FreezeState
from afcore.model.split_model import SplitModel
from afcore.runs.checkpoint import (
    encode_checkpoint,
    load_moments,
    load_sums,
    load_weights,
    part_key,
    save_checkpoint,
    save_sums,
)
from afcore.runs.records import CheckpointRecord, PartialRecord, commit_record, record_of
from afcore.runs.run import Run
from afcore.training.gradients import GradientSums
from afcore.training.loop import interval_around, interval_ends
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.trained import TrainedEpoch, TrainingState

__all__ = [
    "OpenState",
    "commit_partial",
    "initial_policy",
    "load_checkpoint",
    "load_split",
    "open_state",
]

_THAW_SHARE = 0.1  # of an epoch
_log = logging.getLogger(__name__)


@dataclass
class OpenState:
    """The state with which an epoch begins, or goes on where it was stopped.

    Attributes:
        split: the model.
        training: what the epoch changes.
        policy: None when it never decides.
        parts: digests of what is stored of it; before the first step, none or some of the frozen.
        boundary_start: of the epoch.
        partial: where the epoch goes on; None at its beginning.
        num_workers: that train it now.
    """

    split: SplitModel
    training: TrainingState
    policy: FreezePolicy | None
    parts: dict[str, ContentDigest]
    boundary_start: int
    partial: PartialRecord | None
    num_workers: int = 1

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """The parts that changed, as they are now; what is frozen since the epoch began did not."""
        return encode_checkpoint(self.split, self.training.optimizer, self._unchanged)

    @property
    def _unchanged(self) -> dict[str, ContentDigest]:
        frozen = {*self.split.frozen_parts(self.boundary_start), *self.split.base_parts}
        return {part: self.parts[part] for part in frozen if part in self.parts}

    def save(
        self,
        run: Run,
        epoch: int,
        attempt: int,
        trained: TrainedEpoch,
        since: float,
        further_seconds: float = 0.0,
        encoded: Iterable[tuple[str, bytes]] | None = None,
    ) -> dict[str, Any]:
        """Write the parts that changed.

        Args:
            run: open.
            epoch: that the state is in, or after.
            attempt: at the run.
            trained: of the epoch up to here.
            since: when saving began, by :func:`time.perf_counter`.
            further_seconds: of this attempt in the epoch, besides training and saving.
            encoded: what :meth:`encoded` gave; None: as it is now.

        Returns:
            The fields of a :class:`StateRecord`.
        """
        training, earlier = self.training, self.partial
        written = self.encoded() if encoded is None else encoded
        parts = self._unchanged | save_checkpoint(run.storage, run.parts_folder, written)
        if run.common is not None:
            for digest in set(run.record.weights.values()) & set(parts.values()):
                run.common.note_stored(digest, part_key(run.parts_folder, digest))
        saving = time.perf_counter() - since
        seconds = dict(earlier.seconds) if earlier else {}
        trained_before = earlier.trained.train_seconds if earlier else 0.0
        here = trained.train_seconds - trained_before + saving + further_seconds
        return {
            "epoch": epoch,
            "num_workers": self.num_workers,
            "step": training.step,
            "freeze": training.freeze,
            "parts": parts,
            "trained": trained,
            "seconds": seconds | {attempt: seconds.get(attempt, 0.0) + here},
            "checkpoint_seconds": saving + (earlier.checkpoint_seconds if earlier else 0.0),
        }


def open_state(run: Run, epoch: int, num_steps: int) -> OpenState:
    """Open what was committed last: within the epoch, after the one before, or nothing.

    What was committed within the epoch, and cannot be read, costs the steps up to there alone.

    Args:
        run: open.
        epoch: counted from 1; those before it are done.
        num_steps: of the epoch.

    Raises:
        IntegrityError: when a part of what the epoch begins with is missing or damaged.
    """
    # Without it, or what it names, the epoch begins anew.
    partial = record_of(run, epoch, PartialRecord, replaceable=True)
    if partial is not None:
        try:
            return _open_state(run, epoch, num_steps, partial)
        except IntegrityError as error:
            _log.warning(
                "epoch %d begins anew: %s", epoch, str(error).partition(". Train anew with")[0]
            )
    return _open_state(run, epoch, num_steps, None)


def _open_state(run: Run, epoch: int, num_steps: int, partial: PartialRecord | None) -> OpenState:
    config = run.config
    policy, freeze = initial_policy(run)
    step, parts, moments = 0, dict[str, ContentDigest](), None
    if partial is not None:
        freeze, step, parts = partial.freeze, partial.step, partial.parts
        split = load_split(run, parts, freeze.boundary)
    elif epoch == 1:
        split = run.pretrained()
        parts = _stored_parts(run, split, freeze.boundary)
    else:
        checkpoint = record_of(run, epoch - 1, CheckpointRecord)
        assert checkpoint is not None
        freeze, step, parts = checkpoint.freeze, checkpoint.step, checkpoint.parts
        handed = None if run.common is None else run.common.take_over(parts)
        if handed is None:
            split = load_split(run, parts, freeze.boundary)
        else:
            split, moments = handed
            split = run.placed(split, freeze.boundary)  # what has thawed since is whole again
    split = run.adapted(split, freeze.boundary)  # what has thawed has no adapters yet
    split.set_training(freeze.boundary)
    if moments is None:
        moments = load_moments(run.storage, run.parts_folder, parts)
    optimizer = SuffixOptimizer(
        split,
        learning_rate=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
        moments=moments,
        step=step,
        thaw_steps=round(_THAW_SHARE * num_steps),
    )
    training = TrainingState(optimizer, freeze, step)
    boundary_start = freeze.boundary
    if partial is not None:
        boundary_start = partial.boundary_start
        if policy is not None:
            ends = interval_ends(num_steps, config.freezing.intervals_per_epoch)
            training.sums = _load_sums(run, split, partial, ends)
    return OpenState(split, training, policy, parts, boundary_start, partial)


def load_checkpoint(run: Run, epoch: int) -> SplitModel:
    """The model as it was after ``epoch``.

    Raises:
        IntegrityError: when a part is missing or damaged.
    """
    checkpoint = record_of(run, epoch, CheckpointRecord)
    assert checkpoint is not None
    return load_split(run, checkpoint.parts)


def load_split(run: Run, parts: Mapping[str, ContentDigest], boundary: int = 0) -> SplitModel:
    """The model with a checkpoint's weights; blocks below the boundary as the run trains on them.

    Raises:
        IntegrityError: when a part is missing or damaged.
    """
    split = run.architecture(parts)
    load_weights(run.storage, run.parts_folder, split, parts)
    return run.placed(split, boundary)


def _stored_parts(run: Run, split: SplitModel, boundary: int) -> dict[str, ContentDigest]:
    """Of what is frozen from the first step, what another run of this process has stored."""
    if run.common is None:
        return {}
    frozen, weights = {*split.frozen_parts(boundary), *split.base_parts}, run.record.weights
    return {
        part: weights[part]
        for part in sorted(frozen & weights.keys())
        if run.common.copy_stored(
            run.storage, weights[part], part_key(run.parts_folder, weights[part])
        )
    }


def commit_partial(
    run: Run, epoch: int, attempt: int, state: OpenState, done: TrainedEpoch
) -> None:
    """Commit an epoch that was stopped after some of its steps."""
    clock, training = time.perf_counter(), state.training
    sums = training.sums.tensors() if training.sums is not None else {}
    digest = save_sums(run.storage, run.parts_folder, sums) if sums else None
    saved = state.save(run, epoch, attempt, done, clock)
    commit_record(run, PartialRecord(**saved, sums=digest), attempt)
    _log.info("epoch %d: stopped and committed after step %d", epoch, training.step)


def initial_policy(run: Run) -> tuple[FreezePolicy | None, FreezeState]:
    """The policy, and the state before the first step.

    None where no decision will ever be due: then statistics are not kept either.

    The policy ``none`` keeps them, in every mode but ``full``: other policies are replayed on them.
    """
    policy = run.config.freezing
    return policy if run.config.freezes and policy.decides else None, run.first_freeze


def _load_sums(
    run: Run, split: SplitModel, partial: PartialRecord, ends: list[int]
) -> GradientSums:
    num_done = len(partial.trained.steps)
    before, after = interval_around(ends, num_done)
    sums = GradientSums(split, after - before)
    tensors = load_sums(run.storage, run.parts_folder, partial.sums) if partial.sums else {}
    sums.load(tensors, num_done - before)
    return sums
