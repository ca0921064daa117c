"""Settings of a server. One dataclass; every field can be a flag, an environment variable, or a line in a file.

Flags win over ``IPYBOX_*`` variables, those over the file, that over the defaults. Floor: control.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ipybox.control.errors import ServerSettingsError

GIB = 1024**3
MIB = 1024**2

Auth = Literal["auto", "always"]
LogFormat = Literal["auto", "text", "json"]


def setting(default: Any, help: str, *, secret: bool = False) -> Any:
    """A field with an explanation, which ``ipybox serve --help`` and the reference show."""
    return field(default=default, metadata={"help": help, "secret": secret}, repr=not secret)


def _state_dir() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "ipybox")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What ``ipybox serve`` is started with. Raises :class:`ServerSettingsError` for what makes no sense."""

    host: str = setting("127.0.0.1", "Name or address to listen on.")
    port: int = setting(8000, "Port to listen on; 0 picks a free one.")
    tls_cert: str = setting("", "File with a certificate (PEM, with its chain) to serve https with. Default: http.")
    tls_key: str = setting("", "File with the certificate's key (PEM, no password), if it is not in the same one.")
    state_dir: str = setting("", "Directory for the database, workspaces and packages. Default: ~/.local/state/ipybox.")
    database_url: str = setting(
        "", "postgresql://USER:PASSWORD@HOST/NAME. Default: SQLite in the state directory.", secret=True
    )
    workspace_url: str = setting(
        "", "s3://BUCKET/PREFIX to keep copies of workspaces there. Default: only on the local disk.", secret=True
    )
    s3_endpoint: str = setting("", "URL of an object store other than that of AWS.")
    s3_region: str = setting("us-east-1", "Region of the bucket.")
    s3_allow_http: bool = setting(False, "Speak HTTP without TLS with the object store.")
    auth: Auth = setting("auto", "always: every request needs a key. auto: unless it listens on the loopback only.")
    allowed_hosts: tuple[str, ...] = setting(
        (), "Host names by which clients reach it, besides the one it listens on; guards against DNS rebinding."
    )
    cors_origins: tuple[str, ...] = setting((), "Origins of web pages that may use it. Default: none but its own.")
    sandbox: bool = setting(True, "False runs nothing: there is no way to run code without a sandbox.")
    package_index: str = setting(
        "", "URL of the index that packages come from, or file:// and a directory of wheels. Default: PyPI."
    )
    rate_limit: str = setting("1200/minute", "Requests per key, or per address without keys.")
    max_sessions: int = setting(500, "Sessions alive at once.")
    max_sessions_per_key: int = setting(250, "Sessions alive at once per key, unless the key says otherwise.")
    max_executions_per_key: int = setting(64, "Executions that run or wait per key, unless the key says otherwise.")
    max_executions_per_session: int = setting(16, "Executions that run or wait in one session.")
    default_timeout: int = setting(300, "Seconds for which a session is kept unused, where nothing else is said.")
    max_timeout: int = setting(3600, "The most that a session may ask for.")
    max_lifetime: int = setting(86400, "Seconds after which a session ends though it is used.")
    max_upload_bytes: int = setting(100 * MIB, "Size of the largest file that is uploaded at once.")
    max_request_bytes: int = setting(4 * MIB, "Size of the largest other request.")
    max_output_bytes: int = setting(10 * MIB, "Output that is kept per stream and execution; the rest is counted.")
    min_free_bytes: int = setting(256 * MIB, "Room on the disk below which nothing new is taken.")
    keep_ended_sessions: int = setting(7 * 86400, "Seconds after which ended sessions are forgotten, files and all.")
    keep_audit: int = setting(90 * 86400, "Seconds after which entries of the audit log are forgotten.")
    warm: tuple[str, ...] = setting(
        (), "Templates to have ready at the start, besides those marked warm that were used."
    )
    drain_timeout: float = setting(10.0, "Seconds that running executions get when the server is asked to stop.")
    metrics: bool = setting(True, "Whether there is a /metrics for Prometheus.")
    console: bool = setting(True, "Whether there is a web console at /console.")
    test_results: tuple[str, ...] = setting((), "Results files of `ipybox test` that the console shows.")
    internal_callbacks: bool = setting(True, "Whether there is an /api/v1/internal, for executors of one's own.")
    otel: bool = setting(False, "Send traces with OpenTelemetry, which its own environment variables configure.")
    log_level: str = setting("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = setting("auto", "text, json, or auto: text on a terminal.")

    def __post_init__(self) -> None:
        if not self.state_dir:
            object.__setattr__(self, "state_dir", _state_dir())
        object.__setattr__(self, "state_dir", os.path.abspath(os.path.expanduser(self.state_dir)))
        for each in fields(self):
            _check(each.name, getattr(self, each.name), each.default)
        if self.auth not in get_args(Auth):
            raise ServerSettingsError("auth", f"must be auto or always, got {self.auth!r}")
        if self.log_format not in get_args(LogFormat):
            raise ServerSettingsError("log_format", f"must be auto, text or json, got {self.log_format!r}")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ServerSettingsError("log_level", f"must be DEBUG, INFO, WARNING or ERROR, got {self.log_level!r}")
        if not 0 <= self.port <= 65535:
            raise ServerSettingsError("port", f"must be from 0 to 65535, got {self.port}")
        if self.tls_key and not self.tls_cert:
            raise ServerSettingsError("tls_key", "is the key of a certificate, which tls_cert has to name")
        if not self.sandbox:
            raise ServerSettingsError("sandbox", "code of others runs in a sandbox or not at all; leave it out")
        if self.workspace_url and not self.workspace_url.startswith("s3://"):
            raise ServerSettingsError("workspace_url", "must begin with s3://; leave it out for the local disk")
        if self.database_url and not self.database_url.startswith(("postgresql://", "postgres://", "sqlite://")):
            raise ServerSettingsError("database_url", "must begin with postgresql:// or sqlite://")
        if self.package_index and not self.package_index.startswith(("https://", "http://", "file:///")):
            raise ServerSettingsError("package_index", "must begin with https://, http:// or file:///")
        if "*" in self.cors_origins:
            raise ServerSettingsError("cors_origins", "'*' would let any web page run code here; name the origins")

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def needs_key(self) -> bool:
        """Whether every request has to bring a key."""
        return self.auth == "always" or not self.is_loopback

    @property
    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite:///{self.state_dir}/ipybox.db"

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> ServerSettings:
        """The settings of flags, environment and a TOML file, in this order of precedence.

        Args:
            flags: What was given; None values are not.
            environment: Where ``IPYBOX_HOST`` and so on are looked up; lists are separated by commas.
            file: A TOML file with the names of the fields.
        """
        known = {each.name: each for each in fields(cls)}
        values: dict[str, Any] = {}
        if file is not None:
            try:
                said = tomllib.loads(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise ServerSettingsError(str(file), f"can't be read: {error}") from error
            for name, value in said.items():
                if name not in known:
                    raise ServerSettingsError(f"{file}: {name}", "there is no such setting")
                values[name] = tuple(value) if isinstance(value, list) else value
        for name, each in known.items():
            text = (environment or {}).get(f"IPYBOX_{name.upper()}")
            if text is not None:
                values[name] = _parsed(name, text, each.default)
        values.update({name: value for name, value in (flags or {}).items() if value is not None})
        return cls(**values)


def table() -> str:
    """All settings as Markdown, for the documentation."""
    lines = ["| setting | default | |", "|---|---|---|"]
    for each in fields(ServerSettings):
        lines.append(f"| `{each.name}` | {_shown(each.default)} | {each.metadata['help']} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if isinstance(default, tuple | str) and not default:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _check(name: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif isinstance(default, float):
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    elif isinstance(default, tuple):
        good = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    else:
        good = isinstance(value, str) and "\0" not in value
    if not good:
        kind = "list of str" if isinstance(default, tuple) else type(default).__name__
        raise ServerSettingsError(name, f"must be {kind}, got {value!r}")


def _parsed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off", ""):
            return False
        raise ServerSettingsError(f"IPYBOX_{name.upper()}", f"must be true or false, got {text!r}")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ServerSettingsError(f"IPYBOX_{name.upper()}", f"must be a number, got {text!r}") from None
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
