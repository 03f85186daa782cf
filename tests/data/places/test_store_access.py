"""A process on another machine asks stores as the one that it works for."""

from __future__ import annotations

import pytest

from data.places.store_access import store_variables, take_store_variables


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in store_variables():
        monkeypatch.delenv(name)


def test_credentials_are_those_of_the_command_and_never_half_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = {"AWS_ACCESS_KEY_ID": "theirs", "GOOGLE_BASE_URL": "http://there"}
    with monkeypatch.context() as command:
        for name, value in theirs.items():
            command.setenv(name, value)
        command.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/of/that/machine")
        command.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/of/that/machine")
        assert store_variables() == theirs
    for name in (*theirs, "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, "own")
    take_store_variables(theirs)
    assert store_variables() == {**theirs, "AZURE_STORAGE_ACCOUNT_KEY": "own"}


def test_machine_with_credentials_of_its_own_keeps_them_where_the_command_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    take_store_variables({})
    assert store_variables() == {"AWS_ACCESS_KEY_ID": "own"}
