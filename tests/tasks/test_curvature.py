"""That of a task is that of its loss, by differentiating that twice."""

from typing import Any

import pytest
import torch
from torch import Tensor

from afcore.tasks.known_tasks import parse_task

NAMES = ["a", "b", "c"]
SETTINGS: dict[str, dict[str, Any]] = {
    "text-classification": {"label_names": NAMES},
    "token-classification": {"label_names": NAMES, "unread": "O"},
    "text-regression": {},
    "multi-label-classification": {"label_names": NAMES},
    "text-ordinal": {"lowest": 1, "highest": 4},
}
LABELS = {
    "text-classification": torch.tensor([1]),
    "token-classification": torch.tensor([1]),
    "text-regression": torch.tensor([2.0]),
    "multi-label-classification": torch.tensor([[1.0, 0.0, 1.0]]),
    "text-ordinal": torch.tensor([[1.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_largest_second_derivative_of_an_examples_loss(name: str) -> None:
    task = parse_task({"name": name, "pad_token_id": 0, **SETTINGS[name]})
    targets = {"labels": LABELS[name]}

    def loss(outputs: Tensor) -> Tensor:
        return task.loss(outputs[None], targets)

    draw = torch.Generator().manual_seed(0)
    count = max(task.num_outputs, 1)
    drawn = 3.0 * torch.randn(200, count, generator=draw)
    even = torch.full((1, count), -50.0)  # two classes as likely as each other, others not at all
    even[0, :2] = 0.0
    second = [
        torch.autograd.functional.hessian(loss, outputs).diagonal().max()
        for outputs in torch.cat([drawn, even])
    ]
    assert max(second) == pytest.approx(task.curvature, rel=1e-3)
