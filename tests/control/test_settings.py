"""Settings: where they come from, which wins, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings


def test_a_server_is_for_its_own_machine_unless_it_is_told_otherwise() -> None:
    settings = ServerSettings()
    assert settings.is_loopback
    assert not settings.needs_key
    assert settings.cors_origins == ()
    assert settings.sandbox


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_key_is_needed_as_soon_as_it_listens_elsewhere(host: str) -> None:
    assert ServerSettings(host=host).needs_key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_is_known_by_all_of_its_names(host: str) -> None:
    assert not ServerSettings(host=host).needs_key
    assert ServerSettings(host=host, auth="always").needs_key


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ipybox.toml"
    file.write_text('port = 1\nmax_sessions = 1\ndrain_timeout = 1.5\nwarm = ["a", "b"]\n', encoding="utf-8")
    environment = {"IPYBOX_PORT": "2", "IPYBOX_MAX_SESSIONS": "2", "IPYBOX_CORS_ORIGINS": "https://a, https://b"}
    settings = ServerSettings.load({"port": 3, "host": None}, environment, file)
    assert (settings.port, settings.max_sessions, settings.drain_timeout) == (3, 2, 1.5)
    assert settings.warm == ("a", "b")
    assert settings.cors_origins == ("https://a", "https://b")
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"port": 65536}, "port"),
        ({"port": True}, "port"),
        ({"host": 5}, "host"),
        ({"auth": "never"}, "auth"),
        ({"sandbox": False}, "sandbox"),
        ({"cors_origins": ("*",)}, "cors_origins"),
        ({"cors_origins": "https://a"}, "cors_origins"),
        ({"workspace_url": "file:///x"}, "workspace_url"),
        ({"database_url": "mysql://x"}, "database_url"),
        ({"drain_timeout": float("inf")}, "drain_timeout"),
        ({"max_sessions": -1}, "max_sessions"),
        ({"log_level": "loud"}, "log_level"),
        ({"log_format": "xml"}, "log_format"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_the_setting(values: dict[str, object], named: str) -> None:
    with pytest.raises(ServerSettingsError) as caught:
        ServerSettings(**values)  # type: ignore[arg-type]
    assert caught.value.setting == named


@pytest.mark.parametrize("text", ["prot = 1", "port = ", "port = [1]"])
def test_a_file_with_mistakes_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "ipybox.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ServerSettingsError):
        ServerSettings.load(file=file)


@pytest.mark.parametrize(("name", "text"), [("IPYBOX_PORT", "many"), ("IPYBOX_METRICS", "perhaps")])
def test_a_variable_with_a_mistake_is_an_error_that_names_it(name: str, text: str) -> None:
    with pytest.raises(ServerSettingsError) as caught:
        ServerSettings.load(environment={name: text})
    assert caught.value.setting == name


def test_every_setting_is_explained_and_no_secret_is_shown() -> None:
    assert all(each.metadata["help"].endswith(".") for each in fields(ServerSettings))
    settings = ServerSettings(database_url="postgresql://me:hush@host/db")
    assert "hush" not in repr(settings)
