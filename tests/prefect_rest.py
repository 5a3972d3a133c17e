"""What a test asks a real Prefect server, again where the server is busy, as Prefect's client asks.

A server on SQLite that waits for its database answers 503: ask again, nothing was done.
"""

from typing import Any

import httpx
from prefect.client.base import PrefectHttpxSyncClient

__all__ = ["prefect_answer", "prefect_response"]


def prefect_response(method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """The answer, whatever its status."""
    with PrefectHttpxSyncClient(timeout=60.0, raise_on_all_errors=False) as client:
        return client.request(method, url, json=body)


def prefect_answer(method: str, url: str, **body: Any) -> Any:
    """What an answer without an error holds; None where it is empty."""
    answer = prefect_response(method, url, body if method != "GET" else None).raise_for_status()
    return answer.json() if answer.content else None
