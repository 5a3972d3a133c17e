"""Prices from a table, with a user's own on top. Nothing is fetched.

The table that is shipped is ``afcore/shipped/prices.yaml``, which says where its figures come from
and when.
"""

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from afcore.config import PricesConfig
from afcore.cost import Prices
from afcore.errors import ConfigError
from afcore.yaml_files import parse, read_mapping

__all__ = ["SHIPPED", "GpuPrice", "PriceTable", "StorePrice", "load_prices", "resolve_prices"]

SHIPPED = Path(__file__).parent / "shipped"
"""Tables and descriptions that come with the package; ``autofreeze examples`` copies them."""

_EGRESS = "egress_usd_per_gb"
_DEFAULT = Prices(
    gpu_hour_usd=1.0,
    storage_gb_month_usd=0.023,
    put_usd_per_1000=0.005,
    get_usd_per_1000=0.0004,
    egress_usd_per_gb=0.0,
)


def _text(value: object) -> object:
    """YAML reads a whole date as one."""
    return value.isoformat() if isinstance(value, date) else value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    as_of: Annotated[str, BeforeValidator(_text)]
    source: str


class GpuPrice(_Entry):
    """Of one GPU for one hour; ``spot_usd`` None where it is not known."""

    on_demand_usd: float = Field(ge=0)
    spot_usd: float | None = Field(None, ge=0)


class StorePrice(_Entry):
    """Of a cloud's object store."""

    storage_gb_month_usd: float = Field(ge=0)
    put_usd_per_1000: float = Field(ge=0)
    get_usd_per_1000: float = Field(ge=0)
    egress_usd_per_gb: float = Field(ge=0)


class PriceTable(BaseModel):
    """Entries of ``gpus`` are named ``cloud/gpu``, those of ``stores`` by cloud."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: dict[str, GpuPrice] = {}
    stores: dict[str, StorePrice] = {}


def load_prices(own: str | None = None) -> PriceTable:
    """The table that is shipped, with the entries of a user's own in place of its.

    Raises:
        ConfigError: for a file that cannot be read or is no such table.
    """
    table = _read(SHIPPED / "prices.yaml")
    if own is None:
        return table
    mine = _read(Path(own))
    return PriceTable(gpus=table.gpus | mine.gpus, stores=table.stores | mine.stores)


def resolve_prices(config: PricesConfig) -> Prices:
    """Keys that were given, then the table's for ``prices.gpu``, then round figures.

    Raises:
        ConfigError: for a GPU without a price, or a table that cannot be read.
    """
    found = vars(_DEFAULT) | (_of_gpu(config) if config.gpu or config.table else {})
    given = {name: getattr(config, name) for name in found}
    return Prices(**(found | {name: usd for name, usd in given.items() if usd is not None}))


def _of_gpu(config: PricesConfig) -> dict[str, float]:
    table = load_prices(config.table)
    if config.gpu is None:
        return {}
    entry = table.gpus.get(config.gpu)
    if entry is None:
        raise ConfigError(
            f"prices.gpu: no price is known of {config.gpu!r}; known are "
            f"{', '.join(sorted(table.gpus))}. Give prices.gpu_hour_usd instead, or a file with "
            "your own as prices.table."
        )
    hour = entry.spot_usd if config.spot else entry.on_demand_usd
    if hour is None and config.gpu_hour_usd is None:
        known = sorted(name for name, one in table.gpus.items() if one.spot_usd is not None)
        raise ConfigError(
            f"prices.spot: no spot price is known of {config.gpu!r}; known are those of "
            f"{', '.join(known)}. Give prices.gpu_hour_usd, or a file with your own as "
            "prices.table."
        )
    store = table.stores.get(config.gpu.partition("/")[0])
    # Egress is for workers elsewhere; only who has them can say so.
    prices = {} if store is None else store.model_dump(exclude={*_Entry.model_fields, _EGRESS})
    return prices if hour is None else prices | {"gpu_hour_usd": hour}


def _read(path: Path) -> PriceTable:
    tree = read_mapping(
        path, "prices.table", "Write it like the prices.yaml of `autofreeze examples`."
    )
    return parse(PriceTable, tree, f"prices.table: {path}")
