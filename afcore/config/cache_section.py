"""The section ``cache``: activation sets, what they may hold, and where."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from afcore.config.section import Section

__all__ = ["CacheConfig"]


def _on_or_off(value: object) -> object:
    """YAML reads a bare `on` as true and `off` as false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class CacheConfig(Section):
    """Activation sets of the frozen prefix; for the modes `cached`, `performance`, `efficiency`.

    `cache.dtype` also rounds what the prefix puts out in mode `freeze`, so that both train on the
    same numbers.
    """

    dtype: Literal["bf16", "fp32", "int8"] = Field(
        "bf16",
        description="type in which hidden states at the boundary are kept; `int8` with one scale "
        "a token",
    )
    mode: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = Field(
        "auto", description="write a set: when an estimate says that it pays, always, or never"
    )
    device_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in GPU memory; default: half of what is free "
        "and not needed for training",
    )
    host_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in host memory; default: half of what is free",
    )
    disk_bytes: int | None = Field(
        None,
        ge=0,
        description="most bytes of activations held in a temporary local file when the store is "
        "elsewhere; default: half of what is free",
    )
    share: bool = Field(
        True, description="use and leave sets for other runs; else this run pays for its own"
    )
    max_bytes: int | None = Field(
        None,
        ge=0,
        description="largest total of all sets in the store (without `share`: of this run): for a "
        "new one the least recently used go that no live run reads; one that still would go beyond "
        "it is not written, and the blocks below run in every epoch",
    )
