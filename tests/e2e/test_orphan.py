"""A flow that is killed takes its temporary Prefect server with it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import write_config

pytestmark = pytest.mark.slow


def test_the_temporary_server_ends_with_a_flow_that_is_killed(
    tiny_config: dict[str, Any], tmp_path: Path, prefect_home: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", tiny_config | {"training": {"epochs": 1000}})
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    log = tmp_path / "run.log"
    with log.open("wb") as stream:
        run = subprocess.Popen(
            [Path(sys.executable).with_name("autofreeze"), "run", str(config)],
            env={**environment, "PREFECT_HOME": str(prefect_home)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 240
        while "Beginning flow run" not in log.read_text():
            assert run.poll() is None, f"the run ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"the flow did not begin:\n{log.read_text()}"
            time.sleep(0.1)
        family = psutil.Process(run.pid).children(recursive=True)
        assert family, "no server was started: this test would prove nothing"

        run.kill()
        run.wait()

        _, alive = psutil.wait_procs(family, timeout=30)
        assert [" ".join(process.cmdline()) for process in alive] == []
    finally:
        run.kill()
        run.wait()
        for process in family:
            if process.is_running():
                process.kill()
