"""What a GPU asks for: nothing waits for it at each step, and what freezes gives its memory back.

What can be, is tested on the CPU, by what happens to the tensors.
"""

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from afcore.compute import Compute, choose_compute
from afcore.freezing.policy import FreezePolicy, FreezeState
from afcore.training.trained import TrainingState
from tests.training_setup import make_examples, make_split, make_state, run_epochs, scripted


class Readings(TorchDispatchMode):
    """Counts tensors turned into Python numbers: on a GPU each makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_the_loop_reads_no_number_at_each_step() -> None:
    state, examples = make_state(make_split()), make_examples(80)
    with Readings() as own:  # transformers looks whether a batch has padding
        state.split.logits(
            {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 3)}
        )
    with Readings() as readings:
        (done,) = run_epochs(state, examples, 1, scripted([0, 0]))
    assert own.count == 1
    assert len(done.steps) == 10
    # And once an interval: are all gradients finite?
    assert readings.count == 10 * own.count + len(done.intervals)
    assert all(step.loss > 0 for step in done.steps)


def kept_bytes(state: TrainingState) -> int:
    """Bytes of gradients and moments."""
    gradients = [p.grad for p in state.split.model.parameters() if p.grad is not None]
    return sum(t.nbytes for t in [*gradients, *state.optimizer.moments().values()])


def test_what_freezes_gives_its_gradients_and_moments_back() -> None:
    state, examples = make_state(make_split()), make_examples()
    split, before = state.split, {}
    references: dict[str, weakref.ref[Tensor]] = {}
    step = state.optimizer.step

    def noting(factor: float) -> float:
        rate = step(factor)
        if state.freeze.boundary == 0:
            before["bytes"] = kept_bytes(state)
            references.update(
                (name, weakref.ref(moment)) for name, moment in state.optimizer.moments().items()
            )
        return rate

    state.optimizer.step = noting
    run_epochs(state, examples, 1, scripted([2, 2]))
    frozen = set(split.frozen_parts(2))
    trained = {name for name in references if split.part_of[name.rpartition("/")[0]] not in frozen}
    assert {name for name, reference in references.items() if reference() is not None} == trained
    assert 0 < len(trained) < len(references)
    assert kept_bytes(state) < 0.6 * before["bytes"]


def test_memory_is_released_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    monkeypatch.setattr(Compute, "release_memory", lambda self: released.append(self))
    run_epochs(make_state(make_split()), make_examples(), 2, scripted([0, 1, 1, 3]))
    assert len(released) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_a_gpu_memory_falls_as_blocks_freeze() -> None:
    split, examples = make_split(), make_examples()
    split.model.to("cuda")
    state = make_state(split)
    used = []

    class Measuring(FreezePolicy):
        def decide(self, state: FreezeState, statistics: object) -> tuple[FreezeState, None]:
            used.append(torch.cuda.memory_allocated())
            return FreezeState(3), None

    run_epochs(state, examples, 2, Measuring(policy="measuring"), compute=choose_compute("auto"))
    assert used[-1] < 0.7 * used[0]
