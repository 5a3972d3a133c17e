"""What was measured before a trial's first epoch serves all trials that compute alike."""

import torch

from afcore.digest import recipe_digest
from afcore.planning.profile import Profile
from afcore.runs.run import Run, read_record
from afcore.runs.run_profile import read_profile, record_profile

__all__ = ["adopt_profile", "offer_profile"]

_TRAINING = {
    "batch_size",
    "precision",
    "compile",
    "gradient_checkpointing",
    "pooled_last_block",
    "augmentation",
}
"""Of the settings, those that decide how long a step takes."""


def adopt_profile(run: Run) -> None:
    """Begin with what another trial measured; else the run measures for itself."""
    if read_profile(run) is None:
        found = read_record(run.storage, _key(run), Profile, replaceable=True)
        if found is not None:
            record_profile(run, found.model_copy(update={"seconds": 0.0}))


def offer_profile(run: Run) -> None:
    """Leave it for other trials, once."""
    found = read_profile(run)
    if found is not None and not run.storage.exists(_key(run)):
        run.storage.put(_key(run), found.model_dump_json().encode())


def _key(run: Run) -> str:
    record, config, compute = run.record, run.config, run.compute
    adapter, quantization = config.adapter, config.quantization
    # With either, the first boundary says which blocks have it, and so what can be measured.
    changed = adapter is not None or quantization is not None
    named = recipe_digest(
        {
            "data": record.data,
            "weights": record.weights,
            "precision": record.precision,
            "versions": record.versions,
            "training": config.training.model_dump(include=_TRAINING),
            "workers": config.workers.model_dump(mode="json"),
            "dtype": config.cache.dtype,
            "batching": config.data.batching,
            "adapter": None if adapter is None else adapter.model_dump(),
            "quantization": quantization,
            "boundary": run.first_freeze.boundary if changed else None,
            "device": [compute.device.type, compute.device_name],
            "threads": torch.get_num_threads(),
        }
    )
    return f"searches/profiles/{named[:32]}.json"
