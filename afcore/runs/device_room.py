"""What a run's activations and its training have of memory, and where its sets are held."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from afcore.activations.layout import SHARD_BYTES
from afcore.activations.residency import Residency, measure_budgets
from afcore.activations.tiers import choose_window, place
from afcore.config import CHOOSING_MODES
from afcore.data.order import INFERENCE_TOKENS
from afcore.model.pretrained import build_model
from afcore.planning.choose_workers import MemoryModel, activation_bytes
from afcore.planning.forecast import BYTES_OF_MOMENTS, BYTES_OF_WEIGHT
from afcore.planning.profile import Reading
from afcore.runs.run import Run

__all__ = [
    "device_memory",
    "memory_by_boundary",
    "place_set",
    "residency_of",
    "training_bytes",
]

_INPUT_BYTES = 2.0  # of a number that goes into a block, under 16-bit autocast
_USABLE = 0.9  # of a GPU's memory: the rest is the context's, the kernels' and the allocator's

_PROCESS_BYTES = 550 * 2**20
"""Of a process on a CPU: Python, PyTorch and Transformers, and what kernels work in."""
_SCORED_LOGIT_BYTES = 8
"""Of a word of the vocabulary at a position: logits and their softmax."""


def residency_of(run: Run, num_sharing: int = 1) -> Residency:
    """Where each of so many workers of one machine holds the run's sets."""
    return Residency(
        run.compute.device,
        run.storage.protocol == "file",
        **run.config.cache.model_dump(include={"device_bytes", "host_bytes", "disk_bytes"}),
        num_sharing=num_sharing,
        needed_bytes=training_bytes(run),
    )


def place_set(run: Run, num_bytes: int) -> Reading:
    """What an epoch reads of a set, and from where.

    What memory holds is fetched once; what it does not hold is streamed in every epoch, and taken
    to come at the store's speed. Workers of one machine share its memory; how many of
    ``workers.max`` an epoch will have is not known yet, so all are assumed.
    """
    workers = run.config.workers
    sharing = workers.max if workers.ray_address is None else 1
    budgets = measure_budgets(residency_of(run, sharing), held_is_free=True)
    whole, rest = divmod(num_bytes, SHARD_BYTES)
    shards = [SHARD_BYTES] * whole + [rest] * (rest > 0)
    tiers = place(shards, budgets, choose_window(shards, budgets))
    streamed = sum(
        size
        for size, tier in zip(shards, tiers, strict=True)
        if tier in ("local disk", "object store")
    )
    return Reading(num_bytes, store_bytes=streamed)


def device_memory(run: Run) -> MemoryModel | None:
    """Of a GPU, less what may hold activations; a CPU's is taken to suffice."""
    device = run.compute.device
    if device.type != "cuda":
        return None
    held = measure_budgets(residency_of(run)).device_bytes
    total = torch.cuda.get_device_properties(device).total_memory
    return _memory(run, _without_weights(run), int(_USABLE * total) - held)


def training_bytes(run: Run) -> int:
    """Of a worker's GPU, what training takes at most: nothing frozen, no batch cut by a plan.

    The device tier leaves so much, although it is made before the model is there. 0 on a CPU.
    """
    if run.compute.device.type != "cuda":
        return 0
    model = _without_weights(run)
    memory = _memory(run, model, 0)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    by_boundary = [num_parameters] * run.record.num_blocks
    tokens = _examples_of_a_pass(run) * memory.example_tokens
    return memory.needed_bytes(by_boundary, 0, tokens)


def memory_by_boundary(
    run: Run, num_parameters: Sequence[int], example_bytes: Sequence[int], scored_tokens: int
) -> list[int]:
    """Bytes that a worker takes while it trains at each boundary, but for sets held in memory.

    On a GPU, of its memory. On a CPU, of the machine's: the process itself too, and the copy of
    what has trained that an epoch commits (docs/decisions/0047).

    Args:
        run: begun or not.
        num_parameters: [L], that train at each boundary.
        example_bytes: [L], that a step keeps of an example; see
            :func:`afcore.measuring.kept_bytes.kept_bytes`.
        scored_tokens: of the validation split.
    """
    examples, on_cpu = _examples_of_a_pass(run), run.compute.device.type == "cpu"
    scoring = 0
    if not run.record.task.head_is_new:  # a word of the vocabulary at each position
        words = int(_without_weights(run).config.get_text_config().vocab_size)
        scoring = words * min(scored_tokens, INFERENCE_TOKENS) * _SCORED_LOGIT_BYTES
    found = []
    for trained, kept in zip(num_parameters, example_bytes, strict=True):
        held = num_parameters[0] * BYTES_OF_WEIGHT + trained * BYTES_OF_MOMENTS
        training = trained * BYTES_OF_WEIGHT + examples * kept
        committing = trained * (BYTES_OF_WEIGHT + BYTES_OF_MOMENTS) if on_cpu else 0
        found.append(held + max(training, committing, scoring) + on_cpu * _PROCESS_BYTES)
    return found


def _examples_of_a_pass(run: Run) -> int:
    """The most that a worker trains on at once, if no batch is cut by a plan."""
    config = run.config
    fewest = config.workers.min if config.mode in CHOOSING_MODES else config.workers.max
    examples = min(config.training.batch_size // fewest, config.workers.micro_batch or sys.maxsize)
    return examples * run.record.task.group_size


def _without_weights(run: Run) -> Any:
    with torch.device("meta"):
        return build_model(run.record.architecture, run.record.task.auto_class)


def _memory(run: Run, model: Any, limit_bytes: int) -> MemoryModel:
    length, width = run.config.data.max_length, int(model.config.hidden_size)
    block = activation_bytes(width, 0, length)
    if run.config.training.gradient_checkpointing:
        kept, again = _INPUT_BYTES * width, block
    else:
        kept, again = block, 0.0
    return MemoryModel(
        limit_bytes=limit_bytes,
        example_tokens=length,
        block_token_bytes=kept,
        again_token_bytes=again,
    )
