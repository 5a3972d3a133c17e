"""A real Trainer on the tiny model; run as a script, what each process of torchrun does."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from afcore.data.examples import Examples
from afcore.trainer_callback.freeze_callback import AutoFreezeCallback
from tests.training_setup import make_examples, make_split

DATA = make_examples(40)


class Rows(Dataset[dict[str, Any]]):
    """All of one length, so that a batch needs no tokenizer; the rest is padding."""

    def __init__(self, examples: Examples) -> None:
        ids, offsets = examples.inputs["input_ids"].values, examples.inputs["input_ids"].offsets
        assert offsets is not None
        longest = int(examples.lengths.max())
        self._rows = []
        for i, label in enumerate(examples.targets["labels"].values):
            tokens = torch.zeros(longest, dtype=torch.int64)
            some = torch.as_tensor(ids[offsets[i] : offsets[i + 1]])
            tokens[: len(some)] = some
            mask = (torch.arange(longest) < len(some)).long()
            self._rows.append({"input_ids": tokens, "attention_mask": mask, "labels": int(label)})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


class Seen(TrainerCallback):
    """Of each step the boundary in it, and the weights after it."""

    def __init__(self, callback: AutoFreezeCallback | None) -> None:
        self.callback = callback
        self.boundaries: list[int] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.callback is not None:
            self.boundaries.append(self.callback.boundary)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        named = given["model"].named_parameters()
        self.weights.append({name: p.detach().clone() for name, p in named})


def make_trainer(
    folder: Path,
    callback: AutoFreezeCallback | None,
    dropout: float = 0.0,
    with_adapters: bool = False,
    pretrained: bool = False,
    train: Any = None,
    model: Any = None,
    **arguments: Any,
) -> tuple[Trainer, Seen]:
    seen = Seen(callback)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }
    if model is None:
        model = make_split(dropout, pool=False).model
    if pretrained:  # as biases show
        with torch.no_grad():
            for parameter in model.bert.encoder.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    if with_adapters:
        lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
        model = get_peft_model(model, lora)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**settings | arguments),
        train_dataset=Rows(DATA) if train is None else train,
        eval_dataset=Rows(DATA),
        callbacks=[seen] if callback is None else [callback, seen],
    )
    # Else it adds up, over passes and processes, the means of a classifier that does not look at
    # the size of the whole batch.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    return trainer, seen


def main(folder: Path) -> None:
    """Train on this process's share; say what it ended with."""
    callback = AutoFreezeCallback("gradient_norm", intervals_per_epoch=2, percentile=50)
    trainer, seen = make_trainer(folder, callback, per_device_train_batch_size=4)
    trainer.train()
    rank = trainer.args.process_index
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    result = {
        "boundaries": seen.boundaries,
        "weights": weights.double().sum().item(),
        "history": trainer.state.log_history,
        "world": trainer.args.world_size,
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
