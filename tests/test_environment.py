"""Servers of this machine are reached past a proxy, and a proxy that is in the way is named."""

import os

import pytest

from pipelines.environment import proxy_for, set_defaults

LOOPBACK = "127.0.0.1,localhost,::1"


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        for variable in (f"{name}_proxy", f"{name.upper()}_PROXY"):
            monkeypatch.setenv(variable, "")  # to be restored, whatever is set meanwhile
            monkeypatch.delenv(variable)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"NO_PROXY": "x.org"}, "x.org"),
        ({"HTTP_PROXY": "http://p:1"}, LOOPBACK),
        ({"https_proxy": "http://p:1"}, LOOPBACK),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ""}, LOOPBACK),
        (
            {"HTTP_PROXY": "http://p:1", "NO_PROXY": "x.org, localhost"},
            "x.org,localhost,127.0.0.1,::1",
        ),
        (
            {"ALL_PROXY": "http://p:1", "no_proxy": "y.org", "NO_PROXY": "x.org"},
            f"y.org,{LOOPBACK}",
        ),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "*"),
    ],
)
def test_loopback_is_reached_past_a_proxy(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    set_defaults()
    assert os.environ.get("NO_PROXY") == expected
    proxied = any(name.lower() != "no_proxy" for name in given)
    for url in ("http://127.0.0.1:4200/api", "http://localhost/api", "https://127.0.0.1/"):
        assert proxy_for(url) is None
    if proxied and expected != "*":
        assert os.environ["no_proxy"] == expected
        scheme = "https" if "https_proxy" in given else "http"
        assert proxy_for(f"{scheme}://elsewhere.org/api") == "http://p:1"


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy:3128")
    assert proxy_for("http://elsewhere.org/api") == "proxy:3128"
