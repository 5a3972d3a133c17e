"""Data of real servers, of S3 and HTTP: what is read, and what is said when nothing can be."""

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afcore.data import files
from afcore.errors import DataError
from tests.conftest import BUCKET, free_port
from tests.data.source_files import load_rows, texts_and_labels

NAMES = ["rows", "reviews[2024]", "my reviews (final)", "a+b%20c#d"]
WANTED = [("caf\xe9", "007"), ("two, with comma", "TRUE")]
CONTENTS = {
    "csv": 'text,label\ncaf\xe9,007\n"two, with comma",TRUE\n'.encode(),
    "jsonl": '{"text": "caf\xe9", "label": "007"}\n'
    '{"text": "two, with comma", "label": "TRUE"}\n'.encode(),
}


def load(source: str) -> list[tuple[str, str]]:
    return texts_and_labels(load_rows(source, "train", "text", "label"))


def message(source: str) -> str:
    with pytest.raises(DataError) as caught:
        load(source)
    return str(caught.value)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    texts, labels = zip(*WANTED, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), path)
    return CONTENTS | {"parquet": path.read_bytes()}


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/forbidden"):
            self.send_error(403)
        elif self.path.startswith("/broken"):
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def web(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Python's server of a folder: its URL and the folder."""
    folder = tmp_path_factory.mktemp("web")
    for name in NAMES:
        for suffix, content in contents.items():
            (folder / f"{name}.{suffix}").write_bytes(content)
    (folder / "reviews2.csv").write_text("text,label\nother,no\n")
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_of_a_web_server(web: tuple[str, Path], suffix: str) -> None:
    url, _ = web
    for name in NAMES:
        assert load(f"{url}/{quote(name)}.{suffix}") == WANTED, name
    for name in NAMES[:3]:
        assert load(f"{url}/{name}.{suffix}") == WANTED, name


def test_a_web_server_is_read_as_it_is_now(web: tuple[str, Path]) -> None:
    url, folder = web
    for label in ("before", "behind"):
        (folder / "changing.csv").write_text(f"text,label\nx,{label}\n")
        assert load(f"{url}/changing.csv") == [("x", label)]


def test_a_web_server_that_gives_no_file(
    web: tuple[str, Path], silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = web
    assert f"cannot read the data '{url}/none.csv': there is no such file" in message(
        f"{url}/none.csv"
    )
    assert "not allowed (403" in message(f"{url}/forbidden.csv")
    assert "500" in message(f"{url}/broken.csv")
    closed = f"http://127.0.0.1:{free_port()}"
    assert "Check the address, whether its server runs" in message(f"{closed}/rows.csv")
    short = aiohttp.ClientTimeout(total=None, sock_read=0.2)
    monkeypatch.setitem(files._OPTIONS, "http", {"client_kwargs": {"timeout": short}})
    assert "Timeout on reading data" in message(f"{silent}/rows.csv")


def test_a_web_server_behind_a_proxy(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's server takes a proxy's request for one of its own, by its path."""
    url, _ = web
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(Handler, "translate_path", _path_of_url)
    assert load("http://elsewhere.invalid/rows.csv") == WANTED


def _path_of_url(handler: http.server.SimpleHTTPRequestHandler, path: str) -> str:
    assert path == "http://elsewhere.invalid/rows.csv"
    return str(Path(handler.directory) / "rows.csv")


@pytest.mark.s3
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_objects_of_s3(s3_endpoint: str, contents: dict[str, bytes], suffix: str) -> None:
    client = boto3.client("s3")
    for name in NAMES:
        client.put_object(Bucket=BUCKET, Key=f"data/{name}.{suffix}", Body=contents[suffix])
    client.put_object(Bucket=BUCKET, Key="data/reviews2.csv", Body=b"text,label\nother,no\n")
    for name in NAMES:
        assert load(f"s3://{BUCKET}/data/{name}.{suffix}") == WANTED, name
    assert load(f"s3://{BUCKET}/data/r*s.{suffix}") == WANTED
    client.put_object(Bucket=BUCKET, Key="data/rows.csv", Body=b"text,label\nbehind,yes\n")
    assert load(f"s3://{BUCKET}/data/rows.csv") == [("behind", "yes")]


@pytest.mark.s3
def test_s3_that_gives_no_object(
    s3_endpoint: str, silent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = f"s3://{BUCKET}/data/none.csv"
    assert f"cannot read the data '{source}': there is no such file or object" in message(source)
    assert "there is no such file or object" in message("s3://no-such-bucket/rows.csv")
    assert "the pattern matches none" in message(f"s3://{BUCKET}/nothing/*.csv")

    def options(**config: object) -> None:  # another file system, as each keeps its client
        monkeypatch.setitem(files._OPTIONS, "s3", {"config_kwargs": config})

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    options(retries={"total_max_attempts": 1}, connect_timeout=1)
    assert "Check the address, whether its server runs" in message(source)
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    options(retries={"total_max_attempts": 1}, read_timeout=0.2)
    assert "Check the address, whether its server runs" in message(source)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    options(retries={"total_max_attempts": 1}, connect_timeout=2)
    assert "no S3 credentials. Set AWS_ACCESS_KEY_ID" in message(source)
