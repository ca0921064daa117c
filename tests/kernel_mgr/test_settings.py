"""A gateway's settings survive their way through the pipe and keep their secrets to themselves."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest

from ipybox.kernel_mgr.settings import GatewaySettings

FULL = GatewaySettings(
    run_dir="/run/x",
    working_dir="/home/ü\udc80",
    listen_fds=[3, 4],
    ready_fd=5,
    allowed_hosts=["localhost"],
    auth_token="hunter2",
    kernel_env={"PASSWORD": "hunter3"},
    kernel_name="python3",
    journal_bytes=1,
    memory_limit=2,
    abandoned_timeout=3.5,
    log_level="DEBUG",
)


def test_they_survive_their_way() -> None:
    assert GatewaySettings.from_json(FULL.to_json()) == FULL


def test_defaults_survive_their_way() -> None:
    plain = GatewaySettings(run_dir="/r", working_dir="/w", listen_fds=[], ready_fd=1)
    assert GatewaySettings.from_json(plain.to_json()) == plain


def test_every_field_travels() -> None:
    assert set(json.loads(FULL.to_json())) == {field.name for field in fields(FULL)}


def test_what_travels_is_ascii_so_that_it_can_always_be_written() -> None:
    FULL.to_json().encode("ascii")


def test_secrets_do_not_show() -> None:
    assert "hunter" not in repr(FULL)


def test_they_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.auth_token = None  # type: ignore[misc]


def test_a_field_that_nobody_knows_is_an_error() -> None:
    text = json.dumps({**json.loads(FULL.to_json()), "surprise": 1})
    with pytest.raises(TypeError, match="surprise"):
        GatewaySettings.from_json(text)
