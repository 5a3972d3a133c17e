"""What an epoch of a run goes through, from where it reads, and what it may use."""

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.codec import row_bytes
from afcore.activations.kept import measure_budgets
from afcore.activations.layout import SHARD_BYTES
from afcore.activations.materialize import PrefixRunner
from afcore.blocks import SplitModel
from afcore.config import Config
from afcore.data.order import epoch_batches
from afcore.data.prepare import Examples
from afcore.planning.forecast import Resources
from afcore.planning.resources import MemoryModel, activation_bytes
from afcore.planning.timing import Reading, Work
from afcore.runs import Run
from afcore.tiers import choose_window, place

__all__ = ["batches_of", "device_memory", "epoch_work", "place_set", "resources_of"]

_USABLE = 0.9  # of a GPU's memory: the rest is the context's, the kernels' and the allocator's


def batches_of(run: Run, examples: Examples, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Of epoch ``epoch``, where memory holds what it reads."""
    config = run.config
    return epoch_batches(
        examples.lengths,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        epoch=epoch,
        batching=config.data.batching,
    )


def epoch_work(run: Run, examples: Examples, runner: PrefixRunner, epoch: int) -> Work:
    """What epoch ``epoch``, 1-based, goes through."""
    hidden_bytes = row_bytes(runner.hidden_size, runner.dtype)
    return Work.of(examples.lengths, batches_of(run, examples, epoch), hidden_bytes)


def place_set(run: Run, num_bytes: int) -> Reading:
    """What an epoch reads of a set, and from where.

    What memory holds is fetched once; what it does not hold is streamed in every epoch, and taken
    to come at the store's speed. All of it is gathered in host memory. Workers of one machine share
    its memory; how many of ``workers.max`` an epoch will have is not known yet, so all are assumed.
    """
    cache = run.config.cache
    budgets = measure_budgets(
        cache.device_bytes,
        cache.host_bytes,
        cache.disk_bytes,
        run.compute.device,
        run.storage.protocol == "file",
        run.config.workers.max if run.config.workers.ray_address is None else 1,
    )
    whole, rest = divmod(num_bytes, SHARD_BYTES)
    shards = [SHARD_BYTES] * whole + [rest] * (rest > 0)
    tiers = place(shards, budgets, choose_window(shards, budgets))
    streamed = sum(
        size
        for size, tier in zip(shards, tiers, strict=True)
        if tier in ("local disk", "object store")
    )
    return Reading({"host memory": num_bytes}, store_bytes=streamed)


def resources_of(config: Config, memory: MemoryModel | None = None) -> Resources:
    """What a training may use."""
    workers = config.workers
    return Resources(
        max_workers=workers.max,
        min_workers=workers.min,
        batch_size=config.training.batch_size,
        micro_batch=workers.micro_batch,
        memory=memory,
        deadline_seconds=workers.deadline_seconds,
        budget_usd=workers.budget_usd,
    )


def device_memory(run: Run, split: SplitModel) -> MemoryModel | None:
    """Of a GPU, less what may hold activations; a CPU's is taken to suffice."""
    device = run.compute.device
    if device.type != "cuda":
        return None
    hidden = int(split.model.config.hidden_size)
    held = measure_budgets(run.config.cache.device_bytes, 0, 0, device, True).device_bytes
    return MemoryModel(
        limit_bytes=int(_USABLE * torch.cuda.get_device_properties(device).total_memory) - held,
        example_tokens=run.config.data.max_length,
        block_token_bytes=activation_bytes(hidden, 0, run.config.data.max_length),
    )
