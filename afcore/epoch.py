"""One epoch of a run, from committed state to committed state.

Each step is skipped when its result is already there, so a retry repeats nothing that was
committed::

    plan.json        where to read from, recorded before anything is trained
    checkpoint.json  training done: parts first, this record after them
    (set)            the activation set at the new boundary, when it pays
    report.json      evaluation done: the epoch is
"""

import logging
import time
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.activations.held import HeldShards
from afcore.activations.kept import hold_shards, release_shards
from afcore.activations.sets import ActivationSet
from afcore.blocks import SplitModel
from afcore.cache import RunCache
from afcore.checkpoint import collect_parts, load_moments, load_weights, save_checkpoint
from afcore.cost import Usage, cost_usd
from afcore.data.order import epoch_batches, windowed_batches
from afcore.data.prepare import PreparedData
from afcore.digest import ContentDigest
from afcore.evaluate import evaluate
from afcore.feed import HiddenFeed
from afcore.freezing.choose import choose_policy
from afcore.freezing.decisions import FreezePolicy, FreezeState
from afcore.optimizer import SuffixOptimizer, learning_rate_factor
from afcore.planning.source import SourceDecision
from afcore.prices import resolve_prices
from afcore.records import (
    CheckpointRecord,
    EpochPlan,
    EpochRecord,
    SetReference,
    best_epoch,
    decision_reports,
    interval_reports,
)
from afcore.report import EpochReport
from afcore.runs import Run, check_lease, read_record
from afcore.training import TrainedEpoch, TrainingState, train_epoch

__all__ = ["load_checkpoint", "run_epoch"]

_log = logging.getLogger(__name__)


def run_epoch(run: Run, epoch: int, attempt: int) -> EpochRecord:
    """Train, checkpoint, materialize and evaluate epoch ``epoch``, counted from 1.

    Args:
        run: the caller holds its lease.
        epoch: every epoch before it is done.
        attempt: the number of this attempt at the run, from 1.

    Returns:
        The epoch's record, made now or found.
    """
    found = read_record(run.storage, run.epoch_key(epoch, "report"), EpochRecord)
    if found is not None:
        return found
    with hold_shards(
        **run.config.cache.model_dump(include={"device_bytes", "host_bytes", "disk_bytes"}),
        device=run.compute.device,
        store_is_local=run.storage.protocol == "file",
    ) as held:
        record = _run_epoch(run, epoch, attempt, held)
    if epoch == run.config.training.epochs:
        release_shards()
    return record


def _run_epoch(run: Run, epoch: int, attempt: int, held: HeldShards) -> EpochRecord:
    before = read_record(run.storage, run.epoch_key(epoch - 1, "report"), EpochRecord)
    plan = read_record(run.storage, run.epoch_key(epoch, "plan"), EpochPlan)
    resumed = plan is not None or (before is not None and before.report.attempt != attempt)
    usage = run.storage.usage
    requests_before = (usage.puts, usage.gets)
    data = run.data()
    checkpoint = read_record(run.storage, run.epoch_key(epoch, "checkpoint"), CheckpointRecord)
    if checkpoint is None:
        state, policy, parts = _open_state(run, epoch)
        cache = RunCache(run, state.split, data.train, run.compute, held)
        if plan is None:
            plan = _make_plan(run, epoch, cache, state, before)
        checkpoint = _train(run, epoch, attempt, data, cache, state, policy, plan, parts)
        split = state.split
    else:
        assert plan is not None
        _log.info("epoch %d: training was committed before; going on after it", epoch)
        split = run.architecture()
        load_weights(run.storage, run.parts_folder, split, checkpoint.parts)
        cache = RunCache(run, split, data.train, run.compute, held)
    read_next_from = _materialize(cache, plan, checkpoint)
    clock = time.perf_counter()
    validation = evaluate(
        split,
        data.validation,
        num_classes=len(run.record.label_names),
        pad_token_id=run.record.pad_token_id,
        compute=run.compute,
    )
    report = checkpoint.report.model_copy(
        update={
            "validation": validation,
            "evaluate_seconds": time.perf_counter() - clock,
            "materialize_seconds": checkpoint.report.materialize_seconds + cache.seconds,
            "activation_bytes_written": checkpoint.report.activation_bytes_written
            + cache.bytes_written,
            "resumed": resumed,
            "attempt": attempt,
        }
    )
    requests = (usage.puts - requests_before[0], usage.gets - requests_before[1])
    report = report.model_copy(update={"cost_usd": _cost(run, report, *requests)})
    record = EpochRecord(
        report=report,
        read_next_from=read_next_from,
        finished=time.time(),
        next_decision=checkpoint.decision,
    )
    check_lease(run, attempt)
    run.storage.put(run.epoch_key(epoch, "report"), record.model_dump_json().encode())
    _collect(run, epoch)
    _show(run, report)
    return record


def load_checkpoint(run: Run, epoch: int) -> tuple[SplitModel, CheckpointRecord]:
    """The model as it was after ``epoch``, and the record of it.

    Raises:
        IntegrityError: when a part is missing or damaged.
    """
    checkpoint = read_record(run.storage, run.epoch_key(epoch, "checkpoint"), CheckpointRecord)
    assert checkpoint is not None
    split = run.architecture()
    load_weights(run.storage, run.parts_folder, split, checkpoint.parts)
    return split, checkpoint


def _open_state(
    run: Run, epoch: int
) -> tuple[TrainingState, FreezePolicy | None, dict[str, ContentDigest]]:
    """The state before the epoch, the policy (None when it never decides), the stored parts."""
    config = run.config
    policy, freeze = _choose_policy(run)
    step = 0
    parts: dict[str, ContentDigest] = {}
    if epoch == 1:
        split = run.pretrained()
    else:
        split, checkpoint = load_checkpoint(run, epoch - 1)
        freeze, step, parts = checkpoint.freeze, checkpoint.step, checkpoint.parts
    split.set_training(freeze.boundary)
    optimizer = SuffixOptimizer(
        split,
        learning_rate=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
    )
    load_moments(run.storage, run.parts_folder, optimizer, parts)
    return TrainingState(split, optimizer, freeze, step), policy, parts


def _choose_policy(run: Run) -> tuple[FreezePolicy | None, FreezeState]:
    """None where no decision will ever be due: then statistics are not kept either.

    The policy ``none`` keeps them, in every mode but ``full``: other policies are replayed on them.
    """
    if run.config.mode == "full":
        return None, FreezeState()
    freezing = run.config.freezing
    policy, state = choose_policy(num_blocks=run.record.num_blocks, **freezing.policy_arguments())
    return policy if freezing.keeps_statistics else None, state


def _validation_losses(run: Run, epoch: int) -> tuple[float, ...]:
    """Of the epochs before ``epoch``."""
    keys = [run.epoch_key(before, "report") for before in range(1, epoch)]
    records = [read_record(run.storage, key, EpochRecord) for key in keys]
    return tuple(record.report.validation["loss"] for record in records if record is not None)


def _make_plan(
    run: Run, epoch: int, cache: RunCache, state: TrainingState, before: EpochRecord | None
) -> EpochPlan:
    refusal = None
    if before is not None:
        read_from, decision = before.read_next_from, before.next_decision
    else:
        read_from, decision = cache.first_source(state.freeze.boundary, run.record.weights)
        refusal = cache.refused(state.freeze.boundary, run.record.weights, None, 0)
    read_from = None if refusal else read_from
    plan = EpochPlan(
        read_from=read_from,
        started=time.time(),
        window_shards=cache.window_shards(read_from),
        decision=decision,
        notes=[refusal] if refusal else [],
    )
    run.storage.put(run.epoch_key(epoch, "plan"), plan.model_dump_json().encode())
    return plan


def _train(
    run: Run,
    epoch: int,
    attempt: int,
    data: PreparedData,
    cache: RunCache,
    state: TrainingState,
    policy: FreezePolicy | None,
    plan: EpochPlan,
    parts: dict[str, ContentDigest],
) -> CheckpointRecord:
    """Train as planned and commit the checkpoint."""
    config, boundary_start = run.config, state.freeze.boundary
    read_before = run.storage.usage.bytes_read
    activation_set, feed, open_seconds = None, None, 0.0
    if plan.read_from is not None:
        weights = parts or run.record.weights
        activation_set = cache.open_or_build(plan.read_from, weights)
        clock = time.perf_counter()
        feed = HiddenFeed(
            activation_set, cache.runner, cache.held, plan.window_shards, run.compute.device
        )
        open_seconds = time.perf_counter() - clock
    trained = train_epoch(
        state,
        data.train,
        _order(run, epoch, plan, data.train.lengths, activation_set),
        epoch=epoch,
        num_epochs=config.training.epochs,
        seed=config.training.seed,
        pad_token_id=run.record.pad_token_id,
        compute=run.compute,
        policy=policy,
        intervals_per_epoch=config.freezing.intervals_per_epoch,
        validation_losses=_validation_losses(run, epoch) if policy is not None else (),
        learning_rate_factor=partial(
            learning_rate_factor,
            schedule=config.training.schedule,
            warmup_ratio=config.training.warmup_ratio,
            steps=config.training.steps,
        ),
        max_grad_norm=config.training.max_grad_norm,
        hidden_dtype=config.cache.dtype,
        read_boundary=plan.read_from.boundary if plan.read_from else 0,
        feed=feed,
        compile_backend="inductor" if config.training.compile else None,
    )
    clock = time.perf_counter()
    frozen = state.split.frozen_parts(boundary_start)
    saved = save_checkpoint(
        run.storage,
        run.parts_folder,
        state.split,
        state.optimizer,
        unchanged={part: parts[part] for part in frozen if part in parts},
    )
    report = EpochReport(
        epoch=epoch,
        num_steps=len(trained.steps),
        boundary_start=boundary_start,
        boundary_end=state.freeze.boundary,
        read_from=f"activations@{plan.read_from.boundary}" if plan.read_from else "tokens",
        train_seconds=trained.train_seconds + open_seconds,
        prefix_seconds=trained.prefix_seconds,
        suffix_seconds=trained.suffix_seconds,
        read_seconds=trained.read_seconds + open_seconds,
        checkpoint_seconds=time.perf_counter() - clock,
        materialize_seconds=cache.seconds,
        evaluate_seconds=0.0,
        train_loss=float(np.mean([step.loss for step in trained.steps])),
        validation={},
        activation_bytes_written=cache.bytes_written,
        activation_bytes_read=trained.activation_bytes_read,
        store_bytes_read=run.storage.usage.bytes_read - read_before if feed else 0,
        order=plan.order,
        tier_bytes=feed.tier_bytes if feed else {},
        cost_usd=0.0,
        resumed=False,
        attempt=attempt,
    )
    # The records of this epoch hold what was built for its start; what follows is added to it.
    cache.seconds, cache.bytes_written = 0.0, 0
    decision = cache.next_decision(state.freeze.boundary, saved, plan.read_from, trained, epoch)
    report = report.model_copy(update=_predictions(epoch, cache, plan, decision, trained, report))
    build = cache.should_build(
        state.freeze.boundary,
        plan.read_from,
        decision,
        epochs_left=config.training.epochs - epoch,
    )
    refusal = cache.refused(state.freeze.boundary, saved, plan.read_from, epoch)
    record = CheckpointRecord(
        step=state.step,
        freeze=state.freeze,
        parts=saved,
        materialize=build and refusal is None,
        notes=[refusal] if refusal else [],
        decision=decision,
        report=report,
        decisions=decision_reports(trained),
        intervals=interval_reports(trained),
        interval_times=[interval.time for interval in trained.intervals],
        steps=trained.steps,
    )
    check_lease(run, attempt)
    run.storage.put(run.epoch_key(epoch, "checkpoint"), record.model_dump_json().encode())
    return record


def _predictions(
    epoch: int,
    cache: RunCache,
    plan: EpochPlan,
    decision: SourceDecision | None,
    trained: TrainedEpoch,
    report: EpochReport,
) -> dict[str, Any]:
    """What was predicted of the epoch, and of the set that is built at its end."""
    if plan.decision is None:
        return {}
    built_first = plan.decision.build_seconds if epoch == 1 else 0.0
    return {
        "decision": plan.decision.text(),
        "predicted_train_seconds": plan.decision.forecast.train_seconds,
        "predicted_materialize_seconds": built_first
        + (decision.build_seconds if decision else 0.0),
        "prediction_error": cache.planner.error(
            epoch, plan.decision, trained, report.train_seconds
        ),
    }


def _order(
    run: Run,
    epoch: int,
    plan: EpochPlan,
    lengths: npt.NDArray[np.int64],
    activation_set: ActivationSet | None,
) -> list[npt.NDArray[np.int64]]:
    """The epoch's batches, in the order that its plan says."""
    config = run.config
    settings: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "seed": config.training.seed,
        "epoch": epoch,
        "batching": config.data.batching,
    }
    if plan.window_shards is None:
        return epoch_batches(lengths, **settings)
    assert activation_set is not None
    shards = activation_set.layout.shard
    return windowed_batches(lengths, shards, window_shards=plan.window_shards, **settings)


def _materialize(
    cache: RunCache, plan: EpochPlan, checkpoint: CheckpointRecord
) -> SetReference | None:
    """Write the set at the new boundary if that was decided; what the next epoch reads."""
    if not checkpoint.materialize:
        stop = checkpoint.decision is not None and checkpoint.decision.source == "tokens"
        return None if stop else plan.read_from
    reference = cache.next_source(checkpoint.freeze.boundary, checkpoint.parts, plan.read_from)
    cache.open_or_build(reference, checkpoint.parts)
    return reference


def _cost(run: Run, report: EpochReport, puts: int, gets: int) -> float:
    seconds = (
        report.train_seconds
        + report.checkpoint_seconds
        + report.materialize_seconds
        + report.evaluate_seconds
    )
    usage = Usage(seconds, report.activation_bytes_written, puts, gets)
    return cost_usd(usage, resolve_prices(run.config.prices))


def _collect(run: Run, epoch: int) -> None:
    """Keep the checkpoints that a restart (the last) or publishing (the best) will open."""
    records = [
        read_record(run.storage, run.epoch_key(e, "report"), EpochRecord)
        for e in range(1, epoch + 1)
    ]
    best = best_epoch([record.report for record in records if record is not None])
    kept = [
        read_record(run.storage, run.epoch_key(e, "checkpoint"), CheckpointRecord)
        for e in {best.epoch, epoch}
    ]
    freed = collect_parts(
        run.storage, run.parts_folder, [record.parts for record in kept if record is not None]
    )
    _log.info("kept checkpoints %s, freed %.1f MB", sorted({best.epoch, epoch}), freed / 1e6)


def _show(run: Run, report: EpochReport) -> None:
    _log.info(
        "epoch %d/%d done: read from %s, boundary %d -> %d; trained %.1f s, checkpoint %.1f s, "
        "cache %.1f s, evaluated %.1f s; activations %.1f MB written, %.1f MB read; "
        "validation accuracy %.4f",
        *(report.epoch, run.config.training.epochs, report.read_from),
        *(report.boundary_start, report.boundary_end, report.train_seconds),
        *(report.checkpoint_seconds, report.materialize_seconds, report.evaluate_seconds),
        *(report.activation_bytes_written / 1e6, report.activation_bytes_read / 1e6),
        report.validation["accuracy"],
    )
