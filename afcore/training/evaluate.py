"""Score a model on a split: the whole model, in eval mode, in length-sorted batches.

What the frozen prefix puts out is computed in the first evaluation that it is held for, and found
in the next ones.
"""

import logging
import time

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.held_batches import HeldBatches
from afcore.compute import Compute
from afcore.data.order import inference_batches
from afcore.data.prepare import Examples
from afcore.model.blocks import SplitModel
from afcore.tasks.text_classification import Scores, collate
from afcore.training.group import ALONE, WorkerGroup

__all__ = ["evaluate"]

_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


def evaluate(
    split: SplitModel,
    examples: Examples,
    *,
    num_classes: int,
    pad_token_id: int,
    compute: Compute,
    group: WorkerGroup = ALONE,
    boundary: int = 0,
    held: HeldBatches | None = None,
    right: npt.NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Accuracy, macro F1 and loss of the whole model, over the examples of all workers together.

    Each worker scores a part of every batch. Leaves the model in eval mode.

    Args:
        split: the model.
        examples: to score it on.
        num_classes: c.
        pad_token_id: of the tokenizer.
        compute: device and precision.
        group: the workers, each of which calls this.
        boundary: the blocks below it are those that ``held`` is open for; 0 without it.
        held: what they put out for these examples, as far as it is held; None: run them.
        right: [n], filled by example id with whether the answer was right, as far as this worker
            scored it.
    """
    split.model.eval()
    done, shown = 0, time.monotonic()
    scores = Scores(num_classes, compute.device)
    with torch.no_grad(), compute.autocast():
        for number, together in enumerate(inference_batches(examples.lengths)):
            ids = together[group.rank :: group.count]
            if not len(ids):
                continue
            batch, labels = collate(examples, ids, pad_token_id, compute.device)
            hidden = held.get(number) if held is not None else None
            if held is not None and hidden is None:
                hidden = split.hidden(batch, boundary)
                held.put(number, hidden)
            logits = split.logits(batch, boundary, hidden)
            scores.add(logits, labels)
            if right is not None:
                right[ids] = (logits.argmax(-1) == labels).cpu().numpy()
            done += len(together)
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                _log.info("evaluated %d of %d examples", done, len(examples))
    group.wait()  # torchmetrics adds up what the workers have, without patience
    return scores.compute()
