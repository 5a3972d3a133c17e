"""Compiled training is eager training: the same losses, and gradients where they belong."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager, eager

from afcore.errors import ConfigError, ModelError
from afcore.model.compile import SuffixCompiler, check_compiler
from afcore.model.split_model import SplitModel
from afcore.training.trained import TrainedEpoch, TrainingState
from tests.model.test_split_model import build
from tests.training_setup import make_examples, make_split, make_state, run_epochs, scripted

pytestmark = [
    # Dynamo looks at the gradient of every input, and expects to be forgiven.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    # Said by inductor while it imports itself.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning"),
]
SCRIPT = [1, 3, 3, 3]  # boundaries after each of two intervals of two epochs


class CountingBackend:
    """Hands every graph on, and counts them."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner = inner
        self.num_graphs = 0

    def __call__(self, graph: Any, inputs: Any, **options: Any) -> Any:
        self.num_graphs += 1
        return self._inner(graph, inputs, **options)


def watched(state: TrainingState) -> list[tuple[int, frozenset[str]]]:
    """At each optimizer step from now on: the boundary, and which parts hold gradients."""
    seen = []
    step = state.optimizer.step

    def noting(factor: float) -> float:
        split = state.split
        parts = {split.part_of[n] for n, p in split.model.named_parameters() if p.grad is not None}
        whole = all(p.grad is not None for p in split.model.parameters() if p.requires_grad)
        assert whole
        seen.append((state.freeze.boundary, frozenset(parts)))
        return step(factor)

    state.optimizer.step = noting
    return seen


def is_compiled(block: torch.nn.Module) -> bool:
    return "forward" in vars(block)


def losses(epochs: list[TrainedEpoch]) -> list[float]:
    return [step.loss for epoch in epochs for step in epoch.steps]


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("bert", eager),
        ("gpt2", eager),
        ("llama", eager),
        pytest.param("bert", aot_eager, marks=pytest.mark.slow),
    ],
)
def test_at_every_boundary_exactly_the_suffix_gets_gradients(name: str, inner: Any) -> None:
    examples, backend = make_examples(16), CountingBackend(inner)
    plain = run_epochs(
        make_state(SplitModel(build(name), pool=False)), examples, 2, scripted(SCRIPT)
    )
    state = make_state(SplitModel(build(name), pool=False))
    seen, num_graphs = watched(state), []

    def count(epoch: int, state: TrainingState) -> tuple[int, Any]:
        num_graphs.append(backend.num_graphs)
        return None

    compiled = run_epochs(state, examples, 2, scripted(SCRIPT), feed=count, compile_backend=backend)
    split = state.split
    assert seen == [
        (boundary, frozenset(split.parts) - set(split.frozen_parts(boundary)))
        for boundary in (0, 1, 3, 3)
    ]
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-5)
    # Boundaries 0 and 1 in the first epoch, 3 in the second: never an old graph.
    assert num_graphs[1] >= 2
    assert backend.num_graphs > num_graphs[1]


def test_a_boundary_that_moves_back_trains_again_what_was_frozen() -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1, scripted([3, 3]), compile_backend="eager")
    state = make_state(state.split, boundary=1)
    seen = watched(state)
    run_epochs(state, examples, 1, compile_backend="eager")
    expected = frozenset(state.split.parts) - set(state.split.frozen_parts(1))
    assert {parts for _, parts in seen} == {expected}


def test_only_the_suffix_is_compiled_and_nothing_stays_so() -> None:
    split = make_split(pool=False)
    compiler = SuffixCompiler(split, "aot_eager")
    compiler.compile(2)
    assert [is_compiled(block) for block in split.blocks] == [False, False, True, True]
    compiler.compile(1)
    assert [is_compiled(block) for block in split.blocks] == [False, True, True, True]
    split.hidden({"input_ids": torch.tensor([[4, 5]])}, 2)  # hands through two compiled blocks
    assert [is_compiled(block) for block in split.blocks] == [False, True, True, True]
    compiler.release()
    assert not any(is_compiled(block) for block in split.blocks)


def test_a_last_block_at_one_position_stays_eager() -> None:
    examples, states = make_examples(16), [make_state(make_split(0.0)) for _ in range(2)]
    compiler = SuffixCompiler(states[0].split, "eager")
    compiler.compile(1)
    compiled = [is_compiled(block) for block in states[0].split.blocks]
    assert compiled == [False, True, True, False]
    compiler.release()
    runs = [
        run_epochs(state, examples, 1, scripted([1, 3]), compile_backend=backend)
        for state, backend in zip(states, ("eager", None), strict=True)
    ]
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=1e-5)


def test_training_leaves_the_model_eager() -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1, compile_backend="eager")
    assert not any(is_compiled(block) for block in state.split.blocks)


def test_a_block_that_cannot_be_compiled_is_named() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such kernel")

    state, examples = make_state(make_split()), make_examples()
    with pytest.raises(ModelError, match=r"BertLayer cannot be compiled.*training\.compile"):
        run_epochs(state, examples, 1, compile_backend=broken)


def test_a_missing_compiler_is_one_clear_message() -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, "/no/such/compiler")}),
        pytest.raises(ConfigError, match=r"C\+\+ compiler.*set training\.compile to false") as got,
    ):
        check_compiler(torch.device("cpu"))
    assert got.value.exit_code == 2
    assert "\n" not in str(got.value)


@pytest.fixture
def quick_inductor() -> Iterator[None]:
    """Compiles in this process, and does not try out first which vectors the machine has."""
    from torch._inductor import config

    settings = {"compile_threads": 1, "cpp.vec_isa_ok": False}
    with config.patch(settings):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("quick_inductor")
def test_inductor_gives_eager_losses_and_the_same_ones_each_time() -> None:
    examples = make_examples(16)

    def train(dropout: float, backend: str | None) -> list[float]:
        state = make_state(make_split(dropout), boundary=2)  # one compiled block: it takes 15 s
        return losses(run_epochs(state, examples, 1, scripted([2, 2]), compile_backend=backend))

    check_compiler(torch.device("cpu"))
    np.testing.assert_allclose(train(0.0, "inductor"), train(0.0, None), rtol=1e-4)
    first, second, plain = train(0.1, "inductor"), train(0.1, "inductor"), train(0.1, None)
    assert first == second
    assert first != plain  # its dropout draws other numbers
    np.testing.assert_allclose(first, plain, atol=0.5)
