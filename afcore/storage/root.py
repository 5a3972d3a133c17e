"""The root of a store: the kind of place that its URL names, and where in it the store lies."""

import os
import re
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from afcore.errors import StoreError
from afcore.storage.backends.backend import Backend, Part
from afcore.storage.backends.local_backend import LocalBackend
from afcore.storage.backends.s3_backend import S3Backend

__all__ = ["open_root"]


def open_root(root: str, part: Part) -> Backend:
    """What knows how objects are kept there.

    Args:
        root: a path or an fsspec URL.
        part: sends its requests of which there are more the more objects there are.

    Raises:
        StoreError: for an unknown protocol, one whose package is not installed, S3 without a
            bucket, and a file where a folder should be.
    """
    is_s3 = root.startswith(("s3://", "s3a://"))
    if re.fullmatch(r"s3a?:(/*|///.*)", root):
        raise StoreError(f"store {root!r}: no bucket is named. Write s3://BUCKET/PREFIX.")
    options: dict[str, Any] = {}
    if is_s3:
        options = {
            "use_listings_cache": False,
            "endpoint_url": os.environ.get("AWS_ENDPOINT_URL"),
        }
    try:
        fs, path = fsspec.core.url_to_fs(root.rstrip("/"), **options)
    except (ValueError, ImportError, OSError) as error:
        raise StoreError(
            f"store {root!r}: {error}. Use a folder, file://, s3:// or memory://."
        ) from error
    if not isinstance(fs, LocalFileSystem):
        return (S3Backend if is_s3 else Backend)(fs, path, part)
    if os.path.isfile(path):
        raise StoreError(f"store {root!r}: it is a file. Use a folder, s3:// or memory://.")
    return LocalBackend(fs, path, part)
