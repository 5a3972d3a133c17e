"""``profile.json``: seconds of a run's model, store and workers, measured once.

It is kept in the run's folder, so that a restart decides from the same figures. Workers are
measured by who launches them, before they start, and never from within one.
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator

from afcore.activations.materialize import PrefixRunner
from afcore.clock import Moment
from afcore.distributed import join_group
from afcore.launch.job import Job
from afcore.launch.launcher import open_launcher, worker_threads
from afcore.measuring.step_seconds import measure_steps
from afcore.measuring.store_speed import probe_bandwidths
from afcore.measuring.worker_speed import fit_workers, measure_together
from afcore.planning.profile import Profile, WorkerProfile
from afcore.runs.batches import batches_of
from afcore.runs.run import Run, RunRecord, read_record
from afcore.storage.objects import Storage
from afcore.training.steps import StepSettings

__all__ = [
    "measure_run",
    "measure_workers",
    "nothing",
    "read_profile",
    "record_profile",
]

_log = logging.getLogger(__name__)


def read_profile(run: Run) -> Profile | None:
    """The run's, or None where nothing was measured."""
    return read_record(run.storage, _key(run), Profile, replaceable=True)


def record_profile(run: Run, profile: Profile) -> None:
    """For this run and its restarts."""
    run.storage.put(_key(run), profile.model_dump_json().encode())


def _key(run: Run) -> str:
    return f"{run.folder}/profile.json"


def measure_run(
    run: Run, runner: PrefixRunner, *, budget_seconds: float, budget_share: float | None = None
) -> Profile:
    """Measure the model, the store and the tiers, and the workers, if there may be several.

    Args:
        run: says how it is trained and where it stores; nothing of it is changed.
        runner: of the model and the training split.
        budget_seconds: see :func:`afcore.measuring.step_seconds.measure_steps`.
        budget_share: the same.

    Raises:
        StoreError: when the store cannot be used.
        AutoFreezeError: when workers cannot be started.
    """
    clock = time.perf_counter()
    batches = batches_of(run, runner.examples, 1)
    with _quiet("afcore.training.loop", "afcore.activations.feed"):
        compute = measure_steps(
            runner.trainee,
            batches,
            _settings(run),
            budget_seconds=budget_seconds,
            budget_share=budget_share,
        )
        bandwidths = probe_bandwidths(run.storage, run.activations_folder, runner, batches)
    profile = Profile(compute=compute, bandwidths=bandwidths, seconds=0.0)
    workers = measure_workers(run, profile) if run.config.workers.max > 1 else None
    seconds = time.perf_counter() - clock
    _log.info(
        "profile in %.1f s: a block takes %.2f us a token trained and %.2f us frozen; store "
        "%.0f MB/s read, %.0f MB/s written, %.1f ms; host memory %.0f MB/s",
        *(seconds, compute.suffix_block_token * 1e6, compute.prefix_block_token * 1e6),
        *(bandwidths.store_read / 1e6, bandwidths.store_write / 1e6),
        bandwidths.store_latency_seconds * 1e3,
        bandwidths.memory_read / 1e6,
    )
    return profile.model_copy(update={"seconds": seconds, "workers": workers})


def measure_workers(run: Run, profile: Profile) -> WorkerProfile:
    """Launch the most workers that the run may have, for a few steps.

    Args:
        run: its record is put into the store for the workers, under another name.
        profile: of one worker.

    Raises:
        AutoFreezeError: when the workers cannot be started.
    """
    workers = run.config.workers
    folder = f"probes/{uuid.uuid4().hex}"

    def job(function: Callable[[str, str, Moment], None]) -> Job:
        return Job(
            function,
            (run.storage.root, folder, Moment()),
            num_workers=workers.max,
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
    found = fit_workers(profile, measured["points"], workers.max, measured["startup_seconds"])
    _log.info(
        "%d workers: gradients %.2f ms a message and %.0f MB/s; %.1f s until they have the "
        "model; each computes %.2f times as long as alone",
        *(workers.max, found.link_latency_seconds * 1e3, found.link_bytes_per_second / 1e6),
        *(found.startup_seconds, found.contention[workers.max]),
    )
    here = _open_seconds(run) if workers.launcher == "auto" else None
    return found.model_copy(update={"startup_here_seconds": here})


def _open_seconds(run: Run) -> float:
    """What an epoch opens first where this process is its worker."""
    clock = time.perf_counter()
    opened = run.pretrained(), run.data()
    seconds = time.perf_counter() - clock
    del opened
    run.compute.release_memory()
    return seconds


def nothing(store: str, folder: str, launched: Moment) -> None:
    """The job that takes what launching takes."""


def probe(store: str, folder: str, launched: Moment) -> None:
    """On every worker; the first writes what was measured."""
    storage = Storage(store)
    record = RunRecord.model_validate_json(storage.get(f"{folder}/run.json"))
    run = Run(storage, record)
    with join_group(run.compute.device) as group:
        trainee = run.trainee(run.pretrained(), run.data().train, group)
        startup_seconds = launched.seconds
        points = measure_together(trainee, batches_of(run, trainee.examples, 1), _settings(run))
        if group.is_first:
            found = {"points": points, "startup_seconds": startup_seconds}
            storage.put(f"{folder}/measured.json", json.dumps(found).encode())
        group.wait()


def _settings(run: Run) -> StepSettings:
    return StepSettings(
        max_grad_norm=run.config.training.max_grad_norm,
        micro_batch=run.config.workers.micro_batch,
        augmentation=run.config.training.augmentation,
        checkpoints=run.config.training.gradient_checkpointing,
    )


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What is done for measuring only should not be logged as training and reading."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
