"""``ipybox serve`` as people start it: options, environment, files, and what it says when that makes no sense."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from ipybox.control.settings import ServerSettings
from tests.cli.typed import ipybox
from tests.control.serving import ENVIRONMENT, HANG, IPYBOX

WIDE = {"COLUMNS": "400", "TERM": "dumb"}


@contextmanager
def serving(state_dir: Path, *options: str) -> Iterator[str]:
    """Its URL, while it serves."""
    log = state_dir.with_suffix(".log")
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [*IPYBOX, "serve", "--port", "0", "--state-dir", str(state_dir), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            url = process.stdout.readline().decode().strip()
            assert url.startswith("http://"), log.read_text()
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(HANG)
            finally:
                process.kill()
                process.wait()


def test_help_explains_each_setting_with_its_default_and_its_variable() -> None:
    text = ipybox("serve", "--help", env=WIDE).stdout.decode()
    for field in fields(ServerSettings):
        (line,) = [line for line in text.splitlines() if f"--{field.name.replace('_', '-')} " in f"{line} "][:1]
        assert f"IPYBOX_{field.name.upper()}" in text
        assert line
        if field.default not in ("", ()) and not isinstance(field.default, bool):
            assert f"default: {field.default}" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port: must be from 0 to 65535"),
        (["--port", "x"], "--port"),
        (["--no-sandbox"], "sandbox: code of others runs in a sandbox or not at all"),
        (["--cors-origins", "*"], "cors_origins"),
        (["--log-level", "LOUD"], "log_level"),
        (["--config", "/does/not/exist.toml"], "can't be read"),
        (["--drain-timeout", "-1"], "drain_timeout"),
        (["--rate-limit", "many"], "rate_limit"),
        (["--cors-origins", "ide.example.org"], "cors_origins"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_starts(
    options: list[str], said: str, tmp_path: Path
) -> None:
    done = ipybox("serve", "--state-dir", tmp_path / "state", *options, env=WIDE)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert not (tmp_path / "state").exists()


def test_a_file_with_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "ipybox.toml"
    config.write_text("prot = 8000\n")
    done = ipybox("serve", "--config", config)
    assert (done.returncode, b"prot: there is no such setting" in done.stderr) == (2, True)


def test_without_what_a_server_needs_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None\nfrom ipybox.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0", "--state-dir", str(tmp_path / "state")],
        capture_output=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert b'pip install "ipybox[server]"' in done.stderr


def test_it_serves_as_options_and_a_file_say_and_ends_when_asked(tmp_path: Path) -> None:
    config = tmp_path / "ipybox.toml"
    config.write_text('auth = "always"\nhost = "does.not.count.invalid"\n')
    with serving(tmp_path / "state", "--config", str(config), "--host", "127.0.0.1") as url:
        with urllib.request.urlopen(f"{url}/api/v1/health") as answer:
            assert json.load(answer)["status"] == "healthy"
        done = ipybox("session", "list", "--server", url)
        assert (done.returncode, b"401" in done.stderr) == (125, True)
        made = ipybox("keys", "create", "root", "--owner", "me", "--scope", "admin", "--state-dir", tmp_path / "state")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.decode().strip()
        listed = ipybox("keys", "list", "--json", "--server", url, env={"IPYBOX_API_KEY": secret})
        assert [each["name"] for each in json.loads(listed.stdout)] == ["root"]
        assert secret.encode() not in listed.stdout + listed.stderr
        again = ipybox("serve", "--port", "0", "--state-dir", tmp_path / "state")
        assert (again.returncode, b"another server uses" in again.stderr) == (125, True)
