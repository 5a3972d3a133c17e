"""How fast is the machine now? A fixed piece of training of about two seconds."""

import time

import torch
import transformers

from afcore.compute import choose_compute

__all__ = ["Reference"]

_STEPS = 10
_WARMUP = 1
_BATCH, _TOKENS = 16, 64


class Reference:
    """Steps of a BERT of random weights on random tokens, always the same."""

    def __init__(self) -> None:
        self._compute = choose_compute("auto")
        device = self._compute.device
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = transformers.BertConfig(
                vocab_size=8000,
                hidden_size=384,
                num_hidden_layers=4,
                num_attention_heads=12,
                intermediate_size=1536,
                num_labels=4,
            )
            self._model = transformers.BertForSequenceClassification(config).to(device)
            self._ids = torch.randint(0, 8000, (_BATCH, _TOKENS), device=device)
            self._labels = torch.randint(0, 4, (_BATCH,), device=device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5)

    def seconds(self) -> float:
        """Of one piece, after a few steps that are not counted."""
        with torch.random.fork_rng():
            self._train(_WARMUP)
            self._compute.synchronize()
            clock = time.perf_counter()
            self._train(_STEPS)
            self._compute.synchronize()
            return time.perf_counter() - clock

    def _train(self, steps: int) -> None:
        for _ in range(steps):
            with self._compute.autocast():
                loss = self._model(input_ids=self._ids, labels=self._labels).loss
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
