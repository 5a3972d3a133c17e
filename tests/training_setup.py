"""Small pieces for tests below the flow: a model, data and a training state."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers

from afcore.activations.manifest import NewSet
from afcore.compute import Compute, HiddenDtype
from afcore.data.examples import Column, Examples
from afcore.data.order import epoch_batches
from afcore.digest import RecipeDigest
from afcore.freezing.policy import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics
from afcore.model.split_model import SplitModel
from afcore.tasks.text_classification import TextClassification
from afcore.trainee import Trainee
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainedEpoch, TrainingState

CPU_FP32 = Compute(torch.device("cpu"), "fp32")
NUM_BLOCKS = 4
STEP_SETTINGS = {field.name for field in fields(StepSettings)}


def make_examples(count: int = 40) -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 20, count)
    tokens = rng.integers(4, 64, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return labelled(tokens, offsets, rng.integers(0, 3, count))


def labelled(tokens: Any, offsets: Any, labels: Any) -> Examples:
    return Examples({"input_ids": Column(tokens, offsets)}, {"labels": Column(labels)})


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


TASK = TextClassification(label_names=["a", "b", "c"], pad_token_id=0)


def new_set(
    folder: str,
    lineage: Sequence[int] = (2,),
    key: str = "k",
    recipe: dict[str, Any] | None = None,
    producer: str = "a-run",
) -> NewSet:
    return NewSet(folder, RecipeDigest(key), recipe or {}, list(lineage), producer)


@dataclass
class SplitState(TrainingState):
    """A state with the model that it is of."""

    split: SplitModel = None  # type: ignore[assignment]


def make_state(split: SplitModel, boundary: int = 0) -> SplitState:
    split.set_training(boundary)
    optimizer = SuffixOptimizer(split, learning_rate=1e-3, weight_decay=0.01)
    return SplitState(optimizer, FreezeState(boundary), split=split)


def make_trainee(split: SplitModel, examples: Examples | None = None, **changes: Any) -> Trainee:
    examples = make_examples() if examples is None else examples
    return Trainee(
        **{"split": split, "task": TASK, "examples": examples, "compute": CPU_FP32} | changes
    )


@contextmanager
def left_alone(split: SplitModel) -> Iterator[None]:
    """What is done meanwhile must not be seen of the model, or of torch's random numbers."""
    before = copy.deepcopy(split.model.state_dict())
    trained = [parameter.requires_grad for parameter in split.model.parameters()]
    modes = [module.training for module in split.model.modules()]
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    yield
    assert torch.equal(torch.rand(3), wanted)
    assert [parameter.requires_grad for parameter in split.model.parameters()] == trained
    assert [module.training for module in split.model.modules()] == modes
    assert all(parameter.grad is None for parameter in split.model.parameters())
    for name, tensor in split.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


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
    state: SplitState,
    examples: Examples,
    epochs: int,
    policy: FreezePolicy | None = None,
    compute: Compute = CPU_FP32,
    feed: Callable[[int, SplitState], Any] | None = None,
    batches: Callable[[int], Any] | None = None,
    dtype: HiddenDtype = "fp32",
    **changes: Any,
) -> list[TrainedEpoch]:
    """Train some epochs; ``feed`` gives each its hidden states, ``batches`` its order."""
    done = []
    order = batches or partial(grouped_batches, examples)
    for epoch in range(1, epochs + 1):
        made = {name: value for name, value in changes.items() if name in STEP_SETTINGS}
        given = {name: changes[name] for name in ("stop", "done") if name in changes}
        rest = {name: changes[name] for name in changes.keys() - STEP_SETTINGS - given.keys()}
        course: dict[str, Any] = {
            "schedule": Schedule(epochs, len(order(epoch))),
            "policy": policy,
            "intervals_per_epoch": 2,
        }
        done.append(
            train_epoch(
                make_trainee(state.split, examples, compute=compute, dtype=dtype),
                state,
                order(epoch),
                Course(epoch, **course | rest),
                StepSettings(**made),
                feed=feed(epoch, state) if feed else None,
                **given,
            )
        )
    return done
