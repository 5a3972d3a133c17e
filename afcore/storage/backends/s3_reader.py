"""Whole S3 objects, read by several threads at a time.

s3fs does everything else. It gets all objects on one event loop in one thread, at half the rate of
the plain client of botocore, on which s3fs stands (docs/decisions/0013).
"""

from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

__all__ = ["S3Reader"]

_CONNECTIONS = 16


class S3Reader:
    """A client with the credentials and the endpoint of an s3fs file system.

    Args:
        file_system: an ``s3fs.S3FileSystem``.
    """

    def __init__(self, file_system: Any) -> None:
        settings: dict[str, Any] = {
            "max_pool_connections": _CONNECTIONS,
            # Shards have checksums of their own.
            "response_checksum_validation": "when_required",
            "connect_timeout": file_system.connect_timeout,
            "read_timeout": file_system.read_timeout,
        }
        if file_system.anon:
            settings["signature_version"] = UNSIGNED
        session = botocore.session.Session(profile=file_system.kwargs.get("profile"))
        options = {
            "aws_access_key_id": file_system.key,
            "aws_secret_access_key": file_system.secret,
            "aws_session_token": file_system.token,
            "endpoint_url": file_system.endpoint_url,
        } | file_system.client_kwargs
        config = Config(**settings | file_system.config_kwargs)
        self._client = session.create_client("s3", config=config, **options)

    def open(self, path: str) -> Any:
        """The body of the object ``bucket/key``, a stream with ``readinto``; to be closed.

        Raises:
            FileNotFoundError: when there is none.
        """
        bucket, _, key = path.partition("/")
        try:
            return self._client.get_object(Bucket=bucket, Key=key)["Body"]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise FileNotFoundError(path) from None
            raise
