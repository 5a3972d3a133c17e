"""Attention of one query without keys and values is that with them; kernels come back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from afcore.model.attention import KERNEL, attend_to_hidden, replaced_kernel

HEADS, WIDTH, HIDDEN = 4, 8, 24


def layers(num_groups: int, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    key, value = (nn.Linear(HIDDEN, num_groups * WIDTH, bias=bias) for _ in range(2))
    return key, value


def masks() -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    seen = torch.arange(5) < torch.tensor([[5], [3], [1]])
    added = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    biases = added[:, None, None] + torch.randn(3, HEADS, 1, 5)
    return {"none": None, "boolean": seen[:, None, None], "added": biases}


def with_keys(
    query: Tensor, hidden: Tensor, key: nn.Linear, value: nn.Linear, mask: Tensor | None
) -> Tensor:
    made = [layer(hidden).view(3, 5, -1, WIDTH).transpose(1, 2) for layer in (key, value)]
    repeated = [one.repeat_interleave(HEADS // one.shape[1], 1) for one in made]
    output = nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    return output.transpose(1, 2)


@pytest.mark.parametrize("mask", ["none", "boolean", "added"])
@pytest.mark.parametrize("num_groups", [HEADS, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_with_keys(mask: str, num_groups: int, bias: bool) -> None:
    key, value = layers(num_groups, bias)
    query = torch.randn(3, HEADS, 1, WIDTH, requires_grad=True)
    hidden = torch.randn(3, 5, HIDDEN, requires_grad=True)
    leaves = [query, hidden, *key.parameters(), *value.parameters()]
    seen = masks()[mask]
    ours = attend_to_hidden(query, hidden, key, value, seen, 0.0, 0.3)
    expected = with_keys(query, hidden, key, value, seen)
    assert ours.shape == (3, 1, HEADS, WIDTH)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn_like(ours)
    gradients = (torch.autograd.grad((out * weights).sum(), leaves) for out in (ours, expected))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_dropped_positions_take_their_share_of_the_bias_along() -> None:
    key, value = layers(HEADS, bias=True)
    nn.init.zeros_(value.weight)
    nn.init.ones_(value.bias)
    torch.manual_seed(0)
    query, hidden = torch.randn(3, HEADS, 1, WIDTH), torch.randn(3, 5, HIDDEN)
    shares = attend_to_hidden(query, hidden, key, value, None, 0.5, None)
    assert shares.unique().numel() > HEADS  # every head has dropped something else
    many = torch.stack(
        [attend_to_hidden(query, hidden, key, value, None, 0.5, None) for _ in range(2000)]
    )
    torch.testing.assert_close(many.mean(0), torch.ones_like(shares), atol=0.1, rtol=0)


def ask() -> object:
    """As a model does."""
    return ALL_ATTENTION_FUNCTIONS[KERNEL](None, 1)


def test_the_kernel_comes_back() -> None:
    def raising(*_: object) -> None:
        raise ValueError("within")

    before = ALL_ATTENTION_FUNCTIONS[KERNEL]
    with pytest.raises(ValueError, match="within"), replaced_kernel(raising):
        ask()
    assert ALL_ATTENTION_FUNCTIONS[KERNEL] is before


def test_threads_do_not_see_what_others_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, KERNEL, lambda *_: "the kernel")
    before, barrier = ALL_ATTENTION_FUNCTIONS[KERNEL], threading.Barrier(3, timeout=30)

    def run(number: int | None) -> object:
        replaced = replaced_kernel(lambda *_: number) if number is not None else nullcontext()
        with replaced:
            barrier.wait()
            found = ask()
            barrier.wait()
        return found

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(run, [1, 2, None])) == [1, 2, "the kernel"]
    assert ALL_ATTENTION_FUNCTIONS[KERNEL] is before
