"""LoRA (arXiv 2106.09685) by PEFT: a model that trains low-rank additions, and what it becomes.

PEFT is an optional package, imported when it is needed (:mod:`afcore.extras`).
"""

import warnings
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from afcore.extras import require_package
from afcore.model.adapters import LoraSettings, check_targets

__all__ = ["add_lora", "merge_lora"]


def add_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """Freeze the model but for its head, and add to every linear layer below the head.

    Args:
        model: a sequence classifier; changed in place.
        settings: of the additions.
        seed: of their first values.

    Returns:
        The ``PeftModel`` around it.

    Raises:
        ConfigError: when PEFT is not installed, or no layer is called as wanted.
    """
    require_package("peft", "mode hf_trainer_lora")
    from peft import LoraConfig, TaskType, get_peft_model

    head = [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and any(True for _ in part.parameters())
    ]
    targets = settings.target_modules
    adaptable = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, adaptable)]
    check_targets(model, layers, targets or ())
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets is None else list(targets),
        modules_to_save=head,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT asks by its old name, of which Transformers warns.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return get_peft_model(model, config)


def merge_lora(model: Any) -> Any:
    """The plain model with the additions in its weights, all of which train again."""
    return model.merge_and_unload().requires_grad_(True)
