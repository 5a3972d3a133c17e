"""The section ``workers``: on how many devices, and who starts them."""

from typing import Literal

from pydantic import Field, model_validator

from afcore.config.section import Section

__all__ = ["WorkersConfig"]


class WorkersConfig(Section):
    """On how many devices an epoch is trained: GPUs, or CPU cores."""

    max: int = Field(
        1,
        ge=1,
        description="most workers; modes `full`, `freeze` and `cached` use all of them, "
        "`performance` and `efficiency` choose before each epoch; must divide "
        "`training.batch_size`",
    )
    min: int = Field(
        1, ge=1, description="fewest with which an epoch that lost workers is tried again"
    )
    launcher: Literal["auto", "torchrun", "ray"] = Field(
        "auto",
        description="`torchrun`: processes on this machine; `ray`: Ray Train, on one or many "
        "machines; `auto`: one worker in this process, several by torchrun",
    )
    ray_address: str | None = Field(
        None, description="of a running Ray cluster; without one a local cluster is started"
    )
    autoscaling: bool = Field(
        False,
        description="whether the cluster at `ray_address` starts machines when workers are wanted: "
        "they are waited for, up to ten minutes; else it must have a device for each of `max`",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a worker; default: one where `max` is more than one, else all",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="most examples of a worker in one backward pass; a larger share of a batch is "
        "accumulated",
    )
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        description="for `performance` and `efficiency`: the cheapest plan that takes no longer",
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="for `performance` and `efficiency`: the fastest plan that costs no more",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "WorkersConfig":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be more than max ({self.max})")
        if self.deadline_seconds is not None and self.budget_usd is not None:
            raise ValueError("give deadline_seconds or budget_usd, not both")
        return self
