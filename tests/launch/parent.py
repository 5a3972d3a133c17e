"""A process that launches: ``python -m tests.launch.parent LAUNCHER FUNCTION STORE``."""

import logging
import sys

from afcore.errors import AutoFreezeError
from afcore.launch.job import Job, Launcher
from tests.launch import functions


def open_launcher(name: str) -> Launcher:
    if name == "local":
        from afcore.launch.local import LaunchLocally

        return LaunchLocally()
    from afcore.launch.ray_train import LaunchWithRay

    return LaunchWithRay(name.partition("@")[2] or None, max_workers=2)


def job_of(function: str, store: str) -> Job:
    return Job(getattr(functions, function), (store,), 2, "in epoch 3", threads=1)


def main() -> int:
    name, function, store = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    launcher = open_launcher(name)
    try:
        launcher.run(job_of(function, store))
    except AutoFreezeError as error:
        print(type(error).__name__, error)
        return error.exit_code
    finally:
        launcher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
