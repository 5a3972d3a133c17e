"""The section ``prices``: what time, storage and requests cost."""

from typing import Annotated

from pydantic import AfterValidator, Field

from afcore.config.section import Section, absolute

__all__ = ["PricesConfig"]


class PricesConfig(Section):
    """What things cost, in US dollars; no price is fetched."""

    gpu: str | None = Field(
        None,
        min_length=1,
        description="take prices from the table: `aws/h100`, ...; a name that is not in it shows "
        "those that are",
    )
    spot: bool = Field(False, description="the spot price of `gpu` instead of the one on demand")
    table: Annotated[str, AfterValidator(absolute)] | None = Field(
        None,
        description="YAML file like the `prices.yaml` of `autofreeze examples`, whose entries "
        "win over those there",
    )
    gpu_hour_usd: float | None = Field(
        None, ge=0, description="one worker for one hour; default: of `gpu`, else 1.0"
    )
    storage_gb_month_usd: float | None = Field(
        None,
        ge=0,
        description="one GB (1e9 bytes) of activations kept for a month; default: of the cloud of "
        "`gpu`, else 0.023",
    )
    put_usd_per_1000: float | None = Field(
        None, ge=0, description="a thousand writes to the store; default: the same, else 0.005"
    )
    get_usd_per_1000: float | None = Field(
        None, ge=0, description="a thousand reads from the store; default: the same, else 0.0004"
    )
    egress_usd_per_gb: float | None = Field(
        None,
        ge=0,
        description="one GB read by workers that are not in the store's cloud; default: 0, as for "
        "workers beside it; the table has the clouds' prices",
    )
