"""A cluster that cannot be worked on is one line, and is found out before anything is computed."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from configs.errors import ConfigError
from data.system.ray_cluster import AUTO, LOCAL, check_address
from tests.support.datasets import one_line

SERVICES = "ray._private.services.canonicalize_bootstrap_address"


@pytest.fixture(autouse=True)
def _no_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # so that it goes afterwards


@pytest.fixture
def nobody() -> str:
    """An address at which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def somebody() -> Iterator[str]:
    """An address at which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_ray_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = "--ray: Ray is not installed: pip install 'fpn-feature-codecs[ray]'"
    with pytest.raises(ConfigError, match=one_line(told)):
        check_address(AUTO)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:x", "ray://head:10001"])
def test_what_is_no_address_is_told(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=f"^--ray {address}: is no address: give HOST:PORT"):
        check_address(address)


def test_an_address_at_which_nobody_answers_is_told(
    nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=f"^--ray {nobody}: nobody answers there: start a"):
        check_address(nobody)
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with pytest.raises(ConfigError, match=f"^--ray: RAY_ADDRESS={nobody}: nobody answers there"):
        check_address(AUTO)


def test_without_an_address_a_running_cluster_is_taken_or_a_new_one(
    nobody: str, somebody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")

    def none(_: str) -> str:
        raise ConnectionError("none runs here")

    monkeypatch.setattr(SERVICES, none)
    assert check_address(AUTO) == LOCAL
    monkeypatch.setattr(SERVICES, lambda _: nobody)  # it was killed
    assert check_address(AUTO) == LOCAL
    monkeypatch.setattr(SERVICES, lambda _: somebody)
    assert check_address(AUTO) == AUTO
    assert check_address(somebody) == somebody
