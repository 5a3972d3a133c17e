"""What a measurement was made on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from afcore.compute import choose_compute, processor_name

__all__ = ["describe_machine", "differences"]

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "autofreeze")
_HARDWARE = ("cpu", "cores", "threads", "gpu", "precision")


def describe_machine() -> dict[str, Any]:
    """Processor, precision, versions and commit."""
    compute = choose_compute("auto")
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if compute.device.type == "cuda" else None,
        "precision": compute.precision,
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Why seconds of both cannot stand side by side; empty where they can."""
    return [
        f"{name}: {one.get(name)} and {other.get(name)}"
        for name in _HARDWARE
        if one.get(name) != other.get(name)
    ]


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Of the working tree, with a mark where it was changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or None
