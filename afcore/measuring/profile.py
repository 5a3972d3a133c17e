"""Measure all that a run is planned from: its model, its store and its workers."""

import contextlib
import logging
import time
from collections.abc import Iterator

from afcore.activations.materialize import PrefixRunner
from afcore.measuring.compute import profile_compute
from afcore.measuring.store import probe_bandwidths
from afcore.measuring.workers import measure_workers
from afcore.planning.profile import Profile
from afcore.runs.batches import batches_of
from afcore.runs.run import Run

__all__ = ["measure_profile"]

_log = logging.getLogger(__name__)


def measure_profile(
    run: Run,
    runner: PrefixRunner,
    *,
    budget_seconds: float,
    budget_share: float | None = None,
) -> Profile:
    """Measure the model, the store and the tiers.

    Args:
        run: says how it is trained and where it stores; nothing of it is changed.
        runner: of the model, which is copied, and the training split.
        budget_seconds: see :func:`afcore.measuring.compute.profile_compute`.
        budget_share: the same.

    Raises:
        StoreError: when the store cannot be used.
    """
    clock = time.perf_counter()
    batches = batches_of(run, runner.examples, 1)
    with _quiet("afcore.training.loop", "afcore.activations.feed"):
        fitted = profile_compute(
            runner.trainee,
            batches,
            max_grad_norm=run.config.training.max_grad_norm,
            budget_seconds=budget_seconds,
            budget_share=budget_share,
        )
        bandwidths = probe_bandwidths(run.storage, run.activations_folder, runner, batches)
    profile = Profile(compute=fitted, bandwidths=bandwidths, seconds=0.0)
    workers = measure_workers(run, profile) if run.config.workers.max > 1 else None
    seconds = time.perf_counter() - clock
    _log.info(
        "profile in %.1f s: a block takes %.2f us a token trained and %.2f us frozen; store "
        "%.0f MB/s read, %.0f MB/s written, %.1f ms; %s",
        *(seconds, fitted.suffix_block_token * 1e6, fitted.prefix_block_token * 1e6),
        *(bandwidths.store_read / 1e6, bandwidths.store_write / 1e6),
        bandwidths.store_latency_seconds * 1e3,
        ", ".join(f"{tier} {speed / 1e6:.0f} MB/s" for tier, speed in bandwidths.tiers.items()),
    )
    if workers is not None:
        ((count, contention),) = workers.contention.items()
        _log.info(
            "%d workers: gradients %.2f ms a message and %.0f MB/s; %.1f s until they have the "
            "model; each computes %.2f times as long as alone",
            *(count, workers.link_latency_seconds * 1e3, workers.link_bytes_per_second / 1e6),
            *(workers.startup_seconds, contention),
        )
    return profile.model_copy(update={"seconds": seconds, "workers": workers})


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
