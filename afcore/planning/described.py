"""A cluster and a workload as described in words and numbers, turned into what planning reads.

Where a run measures (:mod:`afcore.measuring`), a description computes: a block takes 2 operations
a parameter and token forward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1) and ``4 s h`` for
attention over s tokens, and twice that backward. No I/O, no torch.
"""

from pydantic import BaseModel, ConfigDict, Field

from afcore.cost import Prices
from afcore.planning.choose_workers import Allowed, MemoryModel, activation_bytes
from afcore.planning.forecast import Work
from afcore.planning.profile import (
    Bandwidths,
    ComputeProfile,
    MachineLink,
    Profile,
    Reading,
    WorkerProfile,
)

__all__ = ["Cluster", "Link", "Store", "Workload", "describe"]

_BYTES_OF_HIDDEN = 2  # bf16


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Link(_Described):
    """Alpha and beta of a step of an all-reduce."""

    latency_seconds: float = Field(ge=0)
    bytes_per_second: float = Field(gt=0)


class Store(_Described):
    """Object store, as one worker sees it."""

    latency_seconds: float = Field(0.03, ge=0)
    read_bytes_per_second: float = Field(gt=0)
    write_bytes_per_second: float = Field(gt=0)


class Cluster(_Described):
    """Equal nodes with equal GPUs; one worker a GPU.

    Attributes:
        name: in words.
        about: what of it is calibrated, and what assumed.
        num_nodes: all of them.
        gpus_per_node: of each.
        gpu_flops: operations a second that training achieves.
        gpu_memory_bytes: of each GPU.
        gpu_memory_bytes_per_second: at which the optimizer runs over its parameters.
        node_link: between GPUs of one node; None: one GPU a node.
        network: between nodes, of a node.
        overlap: share of an all-reduce hidden behind the backward pass.
        host_memory_bytes: of a node, for activations; what is beyond comes from the store in every
            epoch.
        host_bytes_per_second: of activations from there into one GPU.
        store: of everything.
        startup_seconds: of an epoch on two workers or more.
        startup_worker_seconds: for each of them on top.
        shard_bytes: of an object of an activation set.
    """

    name: str
    about: str
    num_nodes: int = Field(ge=1)
    gpus_per_node: int = Field(ge=1)
    gpu_flops: float = Field(gt=0)
    gpu_memory_bytes: float = Field(gt=0)
    gpu_memory_bytes_per_second: float = Field(gt=0)
    node_link: Link | None = None
    network: Link
    overlap: float = Field(0.0, ge=0, le=1)
    host_memory_bytes: float = Field(gt=0)
    host_bytes_per_second: float = Field(gt=0)
    store: Store
    startup_seconds: float = Field(ge=0)
    startup_worker_seconds: float = Field(0.0, ge=0)
    shard_bytes: int = Field(32 * 2**20, gt=0)

    @property
    def num_workers(self) -> int:
        """All GPUs."""
        return self.num_nodes * self.gpus_per_node


class Workload(_Described):
    """A model and its data.

    Attributes:
        name: in words.
        about: where its numbers come from.
        num_blocks: L.
        hidden_size: h.
        num_heads: whose attention matrices are kept for the backward pass; 0: none is.
        block_parameters: of one block.
        embedding_parameters: freeze with the first block.
        head_parameters: pooler, final norm, classifier.
        mean_tokens: of an example, without padding.
        padded_tokens: of an example, with the padding of its batch.
        max_length: of the longest.
        examples: trained on, each epoch.
        validation_examples: scored after each epoch.
        test_examples: scored once.
        batch_size: examples of a step, over all workers.
        micro_batch: most examples of a worker in one pass; None: as memory allows.
        weight_bytes: of a parameter.
        gradient_bytes: the same; what is exchanged.
        moments_bytes: the same, of the optimizer.
    """

    name: str
    about: str
    num_blocks: int = Field(ge=2)
    hidden_size: int = Field(ge=1)
    num_heads: int = Field(0, ge=0)
    block_parameters: int = Field(ge=1)
    embedding_parameters: int = Field(ge=0)
    head_parameters: int = Field(ge=0)
    mean_tokens: float = Field(gt=0)
    padded_tokens: float = Field(gt=0)
    max_length: int = Field(ge=1)
    examples: int = Field(ge=1)
    validation_examples: int = Field(0, ge=0)
    test_examples: int = Field(0, ge=0)
    batch_size: int = Field(ge=1)
    micro_batch: int | None = Field(None, ge=1)
    weight_bytes: int = Field(4, ge=1)
    gradient_bytes: int = Field(4, ge=1)
    moments_bytes: int = Field(8, ge=1)

    @property
    def num_parameters(self) -> list[int]:
        """P(k): that train at boundary k."""
        above = [
            (self.num_blocks - k) * self.block_parameters + self.head_parameters
            for k in range(self.num_blocks)
        ]
        return [above[0] + self.embedding_parameters, *above[1:]]

    @property
    def block_token_flops(self) -> float:
        """Of a forward pass."""
        attention = 4.0 * self.padded_tokens * self.hidden_size
        return 2.0 * self.block_parameters + attention


def describe(
    cluster: Cluster, workload: Workload, batch_size: int, prices: Prices
) -> tuple[Profile, Work, Allowed]:
    """What planning would measure on such a cluster; of what is allowed, the mode is ``full``.

    Args:
        cluster: as described.
        workload: the same.
        batch_size: examples of a step, over all workers.
        prices: in dollars.
    """
    forward = workload.block_token_flops / cluster.gpu_flops
    # Adam reads weight, gradient and moments, and writes weight and moments; statistics read a
    # gradient and its sum, and write the sum.
    per_parameter = 2 * workload.weight_bytes + workload.gradient_bytes + 2 * workload.moments_bytes
    compute = ComputeProfile(
        num_parameters=workload.num_parameters,
        suffix_step=0.0,
        suffix_token=3 * forward,  # the last block, whole
        suffix_block_token=3 * forward,
        suffix_embeddings=0.0,
        update=per_parameter / cluster.gpu_memory_bytes_per_second,
        statistics=3 * workload.gradient_bytes / cluster.gpu_memory_bytes_per_second,
        prefix_step=0.0,
        prefix_token=0.0,
        prefix_block_token=forward,
        inference_token=0.0,
        inference_block_token=forward,
    )
    bandwidths = Bandwidths(
        shard_bytes=cluster.shard_bytes,
        store_latency_seconds=cluster.store.latency_seconds,
        store_write=cluster.store.write_bytes_per_second,
        store_read=cluster.store.read_bytes_per_second,
        memory_read=cluster.host_bytes_per_second,
    )
    machine = None
    if cluster.node_link is not None:
        machine = MachineLink(num_workers=cluster.gpus_per_node, **cluster.node_link.model_dump())
    workers = WorkerProfile(
        link_latency_seconds=cluster.network.latency_seconds,
        link_bytes_per_second=cluster.network.bytes_per_second,
        startup_seconds=cluster.startup_seconds,
        startup_worker_seconds=cluster.startup_worker_seconds,
        machine=machine,
        overlap=cluster.overlap,
        gradient_bytes=workload.gradient_bytes,
    )
    memory = MemoryModel(
        limit_bytes=int(cluster.gpu_memory_bytes),
        example_tokens=workload.max_length,
        block_token_bytes=activation_bytes(
            workload.hidden_size, workload.num_heads, workload.max_length
        ),
        **workload.model_dump(include={"weight_bytes", "gradient_bytes", "moments_bytes"}),
    )
    allowed = Allowed(
        mode="full",
        prices=prices,
        max_workers=cluster.num_workers,
        batch_size=batch_size,
        micro_batch=workload.micro_batch,
        memory=memory,
    )
    profile = Profile(compute=compute, bandwidths=bandwidths, seconds=0.0, workers=workers)
    return profile, _work(cluster, workload, batch_size), allowed


def _work(cluster: Cluster, workload: Workload, batch_size: int) -> Work:
    num_tokens = round(workload.examples * workload.mean_tokens)
    hidden_bytes = _BYTES_OF_HIDDEN * workload.hidden_size
    set_bytes = num_tokens * hidden_bytes
    streamed = max(0, set_bytes - int(cluster.host_memory_bytes))
    return Work(
        num_steps=-(-workload.examples // batch_size),
        padded_tokens=round(workload.examples * workload.padded_tokens),
        num_tokens=num_tokens,
        hidden_bytes=hidden_bytes,
        reading=Reading(set_bytes, store_bytes=streamed),
        validation_tokens=round(workload.validation_examples * workload.mean_tokens),
        test_tokens=round(workload.test_examples * workload.mean_tokens),
        statistics=True,
    )
