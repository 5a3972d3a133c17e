import pytest
import torch

from afcore.activations.validation_states import ValidationStates
from afcore.data.examples import Examples
from afcore.data.order import inference_batches
from afcore.model.split_model import SplitModel
from afcore.training.evaluate import evaluate
from tests.training_setup import NUM_BLOCKS, make_examples, make_split, make_trainee


def scores(
    split: SplitModel, examples: Examples, boundary: int = 0, held: ValidationStates | None = None
) -> dict[str, float]:
    return evaluate(make_trainee(split, examples), boundary=boundary, held=held).scores()


def count_runs(split: SplitModel) -> list[int]:
    """How often each block computes; handing through is none."""
    runs = [0] * NUM_BLOCKS
    for index, block in enumerate(split.blocks[:-1]):  # the last one runs at one position

        def count(*_: object, index: int = index) -> None:
            runs[index] += 1

        block.attention.register_forward_hook(count)  # type: ignore[operator, union-attr]
    return runs


@pytest.mark.parametrize("boundary", [1, 3])
def test_the_prefix_runs_once_and_no_score_changes(boundary: int) -> None:
    split, examples = make_split(), make_examples(500)
    batches = len(inference_batches(examples.lengths))
    assert batches > 1
    expected = scores(split, examples)
    runs, held = count_runs(split), ValidationStates()
    held.open(boundary, lambda _: "weights", 10**9)
    for evaluations in (1, 2, 3):
        assert scores(split, examples, boundary, held) == expected
        assert runs[:3] == [batches] * boundary + [evaluations * batches] * (3 - boundary)


def test_what_there_is_no_room_for_is_computed_again() -> None:
    split, examples = make_split(), make_examples(500)
    batches = inference_batches(examples.lengths)
    expected = scores(split, examples)
    runs, held = count_runs(split), ValidationStates()
    held.open(3, lambda _: "weights", len(batches[0]) * int(examples.lengths.max()) * 32 * 4)
    assert scores(split, examples, 3, held) == expected
    assert scores(split, examples, 3, held) == expected
    assert runs[0] == 2 * len(batches) - 1, "one batch was held"


@pytest.mark.parametrize("boundaries", [(1, 2, 3), (1, 3)])
def test_above_a_boundary_that_rises_only_what_froze_runs(boundaries: tuple[int, ...]) -> None:
    split, examples = make_split(), make_examples(500)
    batches = len(inference_batches(examples.lengths))
    expected = scores(split, examples)
    runs, held = count_runs(split), ValidationStates()
    for boundary in boundaries:
        held.open(boundary, lambda at: at, 10**9)
        assert scores(split, examples, boundary, held) == expected
    above = [[index >= boundary for boundary in boundaries].count(True) for index in range(3)]
    assert runs[:3] == [(1 + times) * batches for times in above]


def test_where_the_higher_states_find_no_room_the_lower_ones_stay() -> None:
    split, examples = make_split(), make_examples(20)
    held = ValidationStates()
    held.open(1, lambda at: at, 10**9)
    scores(split, examples, 1, held)
    held.open(2, lambda at: at, held.num_bytes)
    _, hidden = held.get(0)
    assert hidden is not None
    held.put(0, {name: torch.cat([values, values]) for name, values in hidden.items()})
    assert held.get(0) == (1, hidden)


def test_other_weights_find_nothing() -> None:
    split, examples = make_split(), make_examples(500)
    held = ValidationStates()
    held.open(1, lambda at: ("weights", at), 10**9)
    scores(split, examples, 1, held)
    held.open(2, lambda at: ("weights", at), 10**9)
    assert held.get(0)[0] == 1
    held.open(2, lambda at: ("others", at), 10**9)
    assert held.get(0) == (0, None)


def test_below_a_boundary_that_falls_nothing_is_found() -> None:
    split, examples = make_split(), make_examples(20)
    held = ValidationStates()
    held.open(2, lambda at: at, 10**9)
    scores(split, examples, 2, held)
    held.open(1, lambda at: at, 10**9)
    assert held.get(0) == (0, None)
