"""Hub data sets at one commit: the first that a store saw of a name stays the one it stands for.

So the same command reads the same rows when the hub has others, and the commit can be recorded.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from afcore.data.hub import HubName, is_commit, resolve_revision
from afcore.data.named_sources import hub_name, load_failure
from afcore.storage.objects import Storage

__all__ = ["pin_revisions"]

_WHOLE = re.compile(r"\w{40,}")
"""A hash: of git, or of another kind for data sets that scripts made."""
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What the hub may have; other names, as ``../data``, are folders that are not there."""
_log = logging.getLogger(__name__)


def pin_revisions(
    storage: Storage, sources: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Ask for the commits of the sources that are hub data sets.

    Args:
        storage: notes the commit of a name that is given without a revision, and knows it then.
        sources: by split, of any kind.

    Returns:
        (names of the hub data sets with their commits, commits), both by split.

    Raises:
        DataError: when the hub cannot be reached or has no such data set, and no copy is here.
    """
    names, commits = {}, {}
    for split, source in sources.items():
        name = hub_name(source) if isinstance(source, str) else None
        if name is not None:
            commits[split] = _commit(storage, name, str(source))
            names[split] = str(name.at(commits[split]))
    return names, commits


def _commit(storage: Storage, name: HubName, source: str) -> str:
    if is_commit(name.revision):
        return str(name.revision)
    if name.revision is not None or not _REPOSITORY.fullmatch(name.repository):
        return _resolved(name, source)
    key = f"hub/{name.repository}"
    noted = _noted(storage, key)
    if noted is not None:
        _log.info(
            "data %r: revision %s, which this store first saw; name another one with @REVISION",
            source,
            noted,
        )
        return noted
    storage.put_new(key, _resolved(name, source).encode())
    return storage.get(key).decode()  # of whoever was first


def _noted(storage: Storage, key: str) -> str | None:
    """The commit; None where none is noted yet, or it was torn and is gone now."""
    try:
        noted = storage.get(key).decode(errors="replace")
    except KeyError:
        return None
    if _WHOLE.fullmatch(noted):
        return noted
    _log.warning("%s is damaged; the commit is looked up anew", storage.uri(key))
    storage.delete(key)
    return None


def _resolved(name: HubName, source: str) -> str:
    try:
        return resolve_revision(name)
    except Exception as error:
        raise load_failure(source, error) from error
