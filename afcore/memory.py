"""How much memory of this machine a process may still take: a container has less than it shows."""

from pathlib import Path

import psutil

__all__ = ["available_memory"]

_FILES: tuple[str, ...] = ("active_file", "inactive_file")


def available_memory(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that are free, or that the limits of the control groups around this process leave.

    What the kernel says of the machine (``/proc/meminfo``) is the same inside a container that may
    take a part of it only. Memory that files were read into is given back when it is needed, so it
    counts as free.

    Args:
        root: where the control groups are mounted, version 1 or 2.
        membership: of this process, as the kernel lists it.
    """
    free = [int(psutil.virtual_memory().available)]
    for folder, limit, used, cached in _groups(root, membership):
        try:
            most = int((folder / limit).read_text())
            taken = int((folder / used).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            free.append(most - taken + sum(int(statistics.get(name, 0)) for name in cached))
        except (OSError, ValueError):  # no such group here, or "max": no limit
            continue
    return max(0, min(free))


def _groups(root: Path, membership: Path) -> list[tuple[Path, str, str, tuple[str, ...]]]:
    """Each group around this process: its folder, and what limit, use and files are called there.

    A container may see its own group as the root, whatever path it is listed under.
    """
    groups = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", _FILES)
        elif "memory" in controllers.split(","):
            top = root / "memory"
            cached = tuple(f"total_{name}" for name in _FILES)
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", cached)
        else:
            continue
        folder = top / path.lstrip("/")
        folders = [folder, *folder.parents]
        groups += [(at, *names) for at in folders[: folders.index(top) + 1]]
    return groups
