"""Seconds, bytes and requests -> dollars. No I/O."""

from dataclasses import dataclass

__all__ = ["Prices", "Usage", "cost_usd"]


@dataclass(frozen=True)
class Prices:
    """US dollars; GB is 1e9 bytes.

    A store on local files is priced like an object store, so that a run here shows what one there
    would cost.
    """

    gpu_hour_usd: float
    storage_gb_month_usd: float
    put_usd_per_1000: float
    get_usd_per_1000: float
    egress_usd_per_gb: float = 0.0


@dataclass(frozen=True)
class Usage:
    """What was used.

    Attributes:
        worker_seconds: workers times seconds.
        bytes_stored: of activations, taken to be kept for a month.
        puts: write requests to the store.
        gets: read requests.
        egress_bytes: read from the store by workers elsewhere.
    """

    worker_seconds: float
    bytes_stored: int = 0
    puts: int = 0
    gets: int = 0
    egress_bytes: int = 0


def cost_usd(usage: Usage, prices: Prices) -> float:
    """Worker time x price + bytes stored x price + requests x price + bytes moved out x price."""
    return (
        usage.worker_seconds / 3600 * prices.gpu_hour_usd
        + usage.bytes_stored / 1e9 * prices.storage_gb_month_usd
        + usage.puts / 1000 * prices.put_usd_per_1000
        + usage.gets / 1000 * prices.get_usd_per_1000
        + usage.egress_bytes / 1e9 * prices.egress_usd_per_gb
    )
