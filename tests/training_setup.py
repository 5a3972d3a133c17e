"""Small pieces for tests below the flow: a model, data and a training state."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers

from afcore.activations.codec import HiddenDtype
from afcore.activations.materialize import PrefixRunner
from afcore.activations.sets import NewSet
from afcore.compute import Compute
from afcore.data.order import epoch_batches
from afcore.data.prepare import Examples
from afcore.digest import RecipeDigest
from afcore.freezing.policy import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics
from afcore.model.split_model import SplitModel
from afcore.tasks.text_classification import inputs_of
from afcore.training.loop import train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from afcore.training.trained import TrainedEpoch, TrainingState

CPU_FP32 = Compute(torch.device("cpu"), "fp32")
NUM_BLOCKS = 4


def make_examples(count: int = 40) -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 20, count)
    return Examples(
        tokens=rng.integers(4, 64, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=rng.integers(0, 3, count),
    )


def make_split(dropout: float = 0.1, pool: bool = True) -> SplitModel:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
        pad_token_id=0,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return SplitModel(transformers.BertForSequenceClassification(config), pool)


def prefix_runner(
    split: SplitModel,
    examples: Examples,
    dtype: HiddenDtype = "bf16",
    compute: Compute = CPU_FP32,
) -> PrefixRunner:
    inputs = partial(inputs_of, examples, 0, compute.device)
    return PrefixRunner(split, inputs, examples.lengths, compute, dtype)


def new_set(
    folder: str,
    lineage: Sequence[int] = (2,),
    key: str = "k",
    recipe: dict[str, Any] | None = None,
    producer: str = "a-run",
) -> NewSet:
    return NewSet(folder, RecipeDigest(key), recipe or {}, list(lineage), producer)


def make_state(split: SplitModel, boundary: int = 0) -> TrainingState:
    split.set_training(boundary)
    optimizer = SuffixOptimizer(split, learning_rate=1e-3, weight_decay=0.01)
    return TrainingState(split, optimizer, FreezeState(boundary))


class Scripted(FreezePolicy):
    """Takes given decisions, one an interval: decisions replayed."""

    policy: Literal["scripted"] = "scripted"
    boundaries: list[int]

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        number = state.memory.get("decided", 0)
        after = self.boundaries[number]
        eta = (0.0,) * len(statistics.gradient_norms)
        decision = FreezeDecision(eta, 0.0, state.boundary, after)
        return FreezeState(after, memory={"decided": number + 1}), decision


def scripted(boundaries: list[int]) -> FreezePolicy:
    return Scripted(boundaries=boundaries)


def grouped_batches(examples: Examples, epoch: int) -> list[npt.NDArray[np.int64]]:
    return epoch_batches(examples.lengths, batch_size=8, seed=0, epoch=epoch, batching="grouped")


def run_epochs(
    state: TrainingState,
    examples: Examples,
    epochs: int,
    policy: FreezePolicy | None = None,
    compute: Compute = CPU_FP32,
    feed: Callable[[int, TrainingState], tuple[int, Any]] | None = None,
    batches: Callable[[int], Any] | None = None,
    **changes: Any,
) -> list[TrainedEpoch]:
    """Train some epochs; ``feed`` gives (read boundary, feed) for each, ``batches`` its order."""
    done = []
    order = batches or partial(grouped_batches, examples)
    for epoch in range(1, epochs + 1):
        read_boundary, hidden_feed = feed(epoch, state) if feed else (0, None)
        settings: dict[str, Any] = {
            "schedule": Schedule(epochs, len(order(epoch))),
            "seed": 0,
            "pad_token_id": 0,
            "compute": compute,
            "policy": policy,
            "intervals_per_epoch": 2,
            "max_grad_norm": 1.0,
            "hidden_dtype": "fp32",
            "read_boundary": read_boundary,
            "feed": hidden_feed,
        }
        done.append(train_epoch(state, examples, order(epoch), epoch=epoch, **settings | changes))
    return done
