"""Names with brackets, as of folders, are shown as they are: Rich takes them for its markup."""

from pathlib import Path

import pytest

from afcore.runs.retention import KnownRecord, StoredRun
from afcore.storage.objects import Storage
from pipelines.cli import runs_shown
from tests.e2e.command import autofreeze


def test_a_store_and_a_model_with_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "[prod]"
    Storage(str(store)).put("hub/a", b"")
    known = KnownRecord("t", "p", "d", "cached", "[base]/bert")
    run = StoredRun(run_id="r1", known=known)
    monkeypatch.setattr(runs_shown, "list_runs", lambda _storage: [run])
    assert autofreeze("cache", "ls", "--store", store) == 0
    assert f"activation sets in {store}: 0" in capfd.readouterr().out
    assert autofreeze("runs", "ls", "--store", store) == 0
    assert "[base]/bert" in capfd.readouterr().out
