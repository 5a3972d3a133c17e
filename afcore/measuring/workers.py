"""Measure training on N workers at once: steps of the model itself, under the launcher itself.

What one worker takes for its share is known (:mod:`.compute`). What N of them take for a whole step
is measured at two boundaries and batch sizes, and fitted to::

    step = contention * (what one worker takes for its share)
           + 2 (n - 1) * buckets * alpha + 2 (n - 1) / n * bytes of gradients / beta

the ring's formula (docs/scaling.md). An all-reduce by itself would be faster than one whose bytes
must be gathered and divided while all cores compute, so none is measured by itself.
"""

import json
import math
import time
import uuid
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from afcore.distributed import join_group
from afcore.freezing.policy import FreezeState
from afcore.launch.job import Job
from afcore.launch.launcher import open_launcher, worker_threads
from afcore.measuring.compute import padded_tokens, sample_batches
from afcore.measuring.fit import fit_seconds
from afcore.planning.forecast import EpochSetup, Work, forecast_epoch
from afcore.planning.profile import Profile, WorkerProfile, ring_terms
from afcore.runs.batches import batches_of
from afcore.runs.run import Run, RunRecord
from afcore.storage.objects import Storage
from afcore.trainee import Trainee
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainingState

__all__ = ["fit_workers", "measure_workers", "nothing", "probe"]

_STEPS = 4
_FASTEST = 1e12
Points = list[tuple[int, int, int, float]]
"""(boundary, padded tokens, backward passes, seconds of a step)."""


def measure_workers(run: Run, profile: Profile) -> WorkerProfile:
    """Launch the probe on the most workers that the run may have.

    Args:
        run: its record is put into the store for the workers, under another name.
        profile: of one worker.

    Raises:
        AutoFreezeError: when the workers cannot be started.
    """
    workers = run.config.workers
    count = workers.max
    folder = f"probes/{uuid.uuid4().hex}"

    def job(function: Callable[[str, str, float], None]) -> Job:
        return Job(
            function,
            (run.storage.root, folder, time.time()),
            num_workers=count,
            what="while the workers were measured",
            threads=worker_threads(workers),
        )

    launcher = open_launcher(workers)
    run.storage.put(f"{folder}/run.json", run.record.model_dump_json().encode())
    try:
        launcher.run(job(nothing))  # the first launch takes longer than later ones
        launcher.run(job(probe))
        measured = json.loads(run.storage.get(f"{folder}/measured.json"))
    finally:
        run.storage.delete_folder(folder)
    return fit_workers(profile, measured["points"], count, measured["startup_seconds"]).model_copy(
        update={"startup_here_seconds": _open_seconds(run) if workers.launcher == "auto" else None}
    )


def _open_seconds(run: Run) -> float:
    """What an epoch opens first where this process is its worker."""
    clock = time.perf_counter()
    opened = run.pretrained(), run.data()
    seconds = time.perf_counter() - clock
    del opened
    run.compute.release_memory()
    return seconds


def fit_workers(
    profile: Profile, points: Points, count: int, startup_seconds: float
) -> WorkerProfile:
    """Contention, latency and speed that give the measured steps."""
    rows = []
    for boundary, padded, passes, _ in points:
        alone = forecast_epoch(
            profile,
            Work(1, math.ceil(padded / count)),
            EpochSetup(boundaries=[boundary], accumulation=passes),
        )
        num_bytes = 4 * profile.compute.num_parameters[boundary]
        rows.append([alone.train_seconds, *ring_terms(num_bytes, count)])
    contention, alpha, per_byte = fit_seconds(rows, [seconds for *_, seconds in points])
    return WorkerProfile(
        link_latency_seconds=alpha,
        link_bytes_per_second=min(_FASTEST, 1 / per_byte if per_byte else _FASTEST),
        startup_seconds=startup_seconds,
        contention={count: contention},
    )


def nothing(store: str, folder: str, launched: float) -> None:
    """The job that takes what launching takes."""


def probe(store: str, folder: str, launched: float) -> None:
    """On every worker; the first writes what was measured."""
    storage = Storage(store)
    record = RunRecord.model_validate_json(storage.get(f"{folder}/run.json"))
    run = Run(storage, record)
    with join_group(run.compute.device) as group:
        split, examples = run.pretrained(), run.data().train
        trainee = run.trainee(split, examples, group)
        startup_seconds = time.time() - launched
        sample = sample_batches(batches_of(run, examples, 1), examples.lengths)
        split.set_training(0)
        # What has no gradient is skipped, so one optimizer serves every boundary.
        optimizer = SuffixOptimizer(split, learning_rate=0.0, weight_decay=0.0)
        points: Points = []
        micro_batch = run.config.workers.micro_batch
        for boundary in (0, split.num_blocks - 1):
            for ids in (sample[0], sample[-1]):
                state = TrainingState(optimizer, FreezeState(boundary))
                _steps(run, trainee, state, [ids])  # kernels are chosen by shape
                seconds = _steps(run, trainee, state, [ids] * _STEPS) / _STEPS
                lengths = examples.lengths
                passes = math.ceil(len(group.share(ids)) / (micro_batch or len(ids)))
                points.append((boundary, padded_tokens(ids, lengths), passes, seconds))
        if group.is_first:
            found = {"points": points, "startup_seconds": startup_seconds}
            storage.put(f"{folder}/measured.json", json.dumps(found).encode())
        group.wait()


def _steps(
    run: Run, trainee: Trainee, state: TrainingState, batches: list[npt.NDArray[np.int64]]
) -> float:
    """Seconds of steps at learning rate 0."""
    trained = train_epoch(
        trainee,
        state,
        batches,
        Course(1, Schedule(1, len(batches), "constant")),
        StepSettings(
            max_grad_norm=run.config.training.max_grad_norm,
            micro_batch=run.config.workers.micro_batch,
        ),
    )
    return trainee.group.longest({"train": trained.train_seconds})["train"]
