"""The root of a store: the filesystem that its URL names, and where in it the store lies."""

import os
import re
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from afcore.errors import StoreError

__all__ = ["open_root"]


def open_root(root: str) -> tuple[Any, str]:
    """The filesystem, and the path within it.

    Args:
        root: a path or an fsspec URL.

    Raises:
        StoreError: for an unknown protocol, one whose package is not installed, S3 without a
            bucket, and a file where a folder should be.
    """
    if re.fullmatch(r"s3:(/*|///.*)", root):
        raise StoreError(f"store {root!r}: no bucket is named. Write s3://BUCKET/PREFIX.")
    options: dict[str, Any] = {}
    if root.startswith("s3://"):
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
    if isinstance(fs, LocalFileSystem) and os.path.isfile(path):
        raise StoreError(f"store {root!r}: it is a file. Use a folder, s3:// or memory://.")
    return fs, path
