"""The device and the precision that a run computes in."""

import contextlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from afcore.errors import ConfigError

__all__ = ["Compute", "HiddenDtype", "choose_compute", "processor_name", "to_device"]

HiddenDtype = Literal["bf16", "fp32", "int8"]
"""What hidden states at the boundary are rounded to, read or computed."""


@dataclass(frozen=True)
class Compute:
    """Where and how numbers are computed; weights are fp32 either way."""

    device: torch.device
    precision: Literal["fp32", "bf16"]

    @property
    def device_name(self) -> str:
        """Of the GPU, or of the processor: two of one name compute equally fast."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return processor_name()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """bf16 autocast, or nothing."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read afterwards tells the work's time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def release_memory(self) -> None:
        """Give what is no longer used back to the device, for larger or other allocations."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seed(self, *numbers: int) -> None:
        """Seed dropout from ``numbers`` alone, so that no generator state need be kept."""
        value = 0
        for number in numbers:
            value = (value * 1_000_003 + number + 1) % 2**63
        # torch.manual_seed seeds every kind of device there is, and notes the stack for each that
        # is not there: a millisecond in every step.
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(value)


def choose_compute(precision: Literal["auto", "fp32", "bf16"]) -> Compute:
    """CUDA when there is a device, else the CPU; ``auto`` is bf16 where it runs natively.

    Raises:
        ConfigError: when bf16 is asked for and the device cannot.
    """
    if torch.cuda.is_available():
        # With its index, as threads start on the first GPU whatever this worker's is.
        device = torch.device("cuda", torch.cuda.current_device())
        native = torch.cuda.is_bf16_supported(False)
    else:
        device, native = torch.device("cpu"), torch.cpu._is_avx512_bf16_supported()
    if precision == "bf16" and device.type == "cuda" and not native:
        raise ConfigError("training.precision: bf16, but this GPU has none; use fp32 or auto")
    if precision == "auto":
        precision = "bf16" if native else "fp32"
    return Compute(device, precision)


def processor_name() -> str:
    """Of the CPU, as Linux knows it; elsewhere at least of its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor without waiting: the device fetches it from pinned memory by itself."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
