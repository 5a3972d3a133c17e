"""Against trees of files as the kernel lays them out, version 2 and 1."""

from pathlib import Path

import psutil
import pytest

from afcore.memory import available_memory


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def v2(folder: Path, limit: object, used: int, cached: int = 100) -> None:
    statistics = f"anon 5\ninactive_file {cached - 100}\nactive_file 100"
    group(folder, {"memory.max": limit, "memory.current": used, "memory.stat": statistics})


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("0::/slice/pod\n")
    return path


def test_the_narrowest_limit_around_counts(tmp_path: Path, membership: Path) -> None:
    root = tmp_path / "sys"
    v2(root / "slice" / "pod", 5000, 3000, 400)
    assert available_memory(root, membership) == 2400
    v2(root / "slice", 9000, 8100)
    assert available_memory(root, membership) == 1000
    v2(root, 100, 300)  # as a container sees its own group; more is taken than may be
    assert available_memory(root, membership) == 0


def test_version_1(tmp_path: Path, membership: Path) -> None:
    membership.write_text("3:cpu,cpuacct:/x\n9:memory:/docker/1\n")
    root = tmp_path / "sys"
    own = {
        "memory.limit_in_bytes": 7000,
        "memory.usage_in_bytes": 5000,
        "memory.stat": "inactive_file 1\ntotal_inactive_file 400\ntotal_active_file 200",
    }
    group(root / "memory", own)
    assert available_memory(root, membership) == 2600


def test_without_a_limit_it_is_what_the_machine_has_free(
    tmp_path: Path, membership: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    v2(tmp_path / "sys" / "slice" / "pod", "max", 3000)
    for member in (membership, tmp_path / "nowhere"):
        assert available_memory(tmp_path / "sys", member) == free.available
