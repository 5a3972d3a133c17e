"""Losses, rates and decisions of a small training in each mode, from one seed, as JSON.

    python bench/fixed_seed.py CHECKOUT WORK OUT.json

CHECKOUT is the code that trains: the same command on two of them shows whether a change of the code
changed numbers. The model (four blocks, weights drawn at random) and the text (docstrings of the
standard library) are made in the folder WORK, once: give both the same one, as a tokenizer that is
trained again is another. Reads the records of this release and those before 0039.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

MODES = ("full", "freeze", "cached", "performance", "efficiency")
POLICIES: tuple[dict[str, Any], ...] = (
    {"policy": "frozen_start", "depth": 2},
    {"policy": "gradient_norm", "intervals_per_epoch": 3},
    {"policy": "guarded", "patience": 1},
)
EPOCHS = (1, 2, 3)


def make_inputs(work: Path) -> None:
    """A model with its tokenizer, and rows."""
    import tests.conftest as made

    rows = made.stdlib_rows()
    made.write_csv(work / "train.csv", [row for i, row in enumerate(rows) if i % 4])
    made.write_csv(work / "test.csv", rows[::4])
    tokenizer = made.tiny_tokenizer._get_wrapped_function()()
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), intermediate_size=64, max_position_embeddings=64, **sizes
    )
    transformers.BertModel(config).save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")


def train(work: Path, store: Path, mode: str, policy: dict[str, Any]) -> list[dict[str, Any]]:
    """What each epoch came to."""
    from afcore.config import parse_config
    from afcore.runs.epoch import run_epoch
    from afcore.runs.run import begin_run, run_lease
    from afcore.storage.objects import Storage

    tree = {
        "mode": mode,
        "model": {"name": str(work / "model")},
        "data": {"train": f"{work}/train.csv", "test": f"{work}/test.csv", "max_length": 32},
        "training": {
            "epochs": len(EPOCHS),
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "stop": "never",
        },
        "freezing": policy,
        "cache": {"mode": "on"},
        "store": str(store),
    }
    try:
        from afcore.runs.identify import identify_run
    except ImportError:  # as it was called before
        from afcore.runs.run import identify_run
    config = parse_config(tree, source="fixed_seed")
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage))
    found = []
    for epoch in EPOCHS:
        with run_lease(storage, run.record.run_id) as lease:
            run_epoch(run, epoch, lease.number)
        checkpoint, report = (
            json.loads(storage.get(run.epoch_key(epoch, name))) for name in ("checkpoint", "report")
        )
        report = report.get("report", report)
        steps = checkpoint.get("trained", checkpoint)["steps"]
        found.append(
            {name: [step[name] for step in steps] for name in ("loss", "learning_rate", "boundary")}
            | {name: report[name] for name in ("validation", "read_from", "boundary_end")}
        )
    return found


def main() -> None:
    """Train all of them."""
    checkout, work, out = (Path(argument).absolute() for argument in sys.argv[1:])
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(checkout))
    if not work.exists():
        work.mkdir(parents=True)
        make_inputs(work)
    found = {}
    for policy in POLICIES:
        for mode in MODES:
            name = f"{policy['policy']} {mode}"
            found[name] = train(work, work / out.stem / name.replace(" ", "-"), mode, policy)
            print(f"{name}: {sum(len(epoch['loss']) for epoch in found[name])} steps", flush=True)
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
