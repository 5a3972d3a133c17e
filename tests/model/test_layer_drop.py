"""Models that skip blocks at random in training."""

import torch
from torch import Tensor

from afcore.model.split_model import SplitModel
from afcore.trainer_callback.frozen_prefix import FrozenPrefix
from tests.model.test_families import H, columns, wav2vec2


def test_blocks_that_are_frozen_are_never_skipped() -> None:
    """And no others are, as long as there are any: all are skipped by the same draw."""
    torch.manual_seed(0)
    split = SplitModel(wav2vec2(layerdrop=0.5))
    given, _ = columns("wav2vec2")
    hidden = split.hidden(given, 2)
    seen: list[Tensor] = []
    split.blocks[2].register_forward_pre_hook(lambda _block, args: seen.append(args[0]))
    split.set_training(2)
    for _ in range(8):
        split.logits(given, 2, hidden)
    assert [torch.equal(states, hidden[H]) for states in seen] == [True] * 8
    split.set_training(0)
    seen.clear()
    for _ in range(8):
        split.logits(given)
    assert 0 < len(seen) < 8


def test_in_a_trainers_loop_frozen_blocks_are_never_skipped_either() -> None:
    torch.manual_seed(0)
    prefix = FrozenPrefix(wav2vec2(layerdrop=0.9))
    given, _ = columns("wav2vec2")
    prefix.move(2, {})
    calls = [0, 0]
    for index in range(2):
        hook = lambda *_, index=index: calls.__setitem__(index, calls[index] + 1)  # noqa: E731
        prefix.split.blocks[index].register_forward_hook(hook)
    prefix.model.train()
    for _ in range(8):
        prefix.model(**given)
    prefix.release()
    assert calls == [8, 8]
