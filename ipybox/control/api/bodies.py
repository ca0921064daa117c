"""Bodies of requests, checked once at the edge. Floor: control.

Unknown fields are ignored, as the model's clients send some that mean nothing here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ipybox.control.json_text import JsonText
from ipybox.control.records import Dependency, NetworkRules, ResourceLimits

MIB = 1024**2
CODE_CHARACTERS = 102_400
RuntimeType = Literal["python3.11", "python3.12", "python3.13", "python3.14", "nodejs20", "java17", "go1.21"]
Language = Literal["python", "javascript", "shell"]
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_GLUED = re.compile(r"(.*?[A-Za-z_-])(\d+(?:\.\d+)+)\Z")
_VERSION = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>)?\s*([A-Za-z0-9.*+!_-]+)\s*\Z")
_SIZE = re.compile(r"([1-9][0-9]{0,9})(Mi|Gi)\Z")
_UNITS = {"Mi": MIB, "Gi": 1024 * MIB}
_MOST_VARIABLES = 4096
_MOST_TAGS = 32
_LEVELS = 101


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) or ".." in text:
        raise ValueError("must begin with a letter or digit and hold letters, digits, '.', '_' and '-' only")
    return text


def _variables(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value or not _encodable(name + value):
            raise ValueError(f"{name!r} and its value can't be an environment variable")
    if sum(len(name) + len(value) for name, value in env.items()) > 128 * 1024:
        raise ValueError("must have no more than 131072 characters in all")
    return env


def _at_most(number: int) -> BeforeValidator:
    """No more names than that: each that is no good has an error of its own, and a million of them take seconds."""

    def counted(given: Any) -> Any:
        if isinstance(given, dict) and len(given) > number:
            raise ValueError(f"must have no more than {number} names")
        return given

    return BeforeValidator(counted)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(text: str) -> str:
    if not _encodable(text):
        raise ValueError("holds half a character (a lone surrogate)")
    return text


def _json(value: Any) -> Any:
    """JSON has no NaN, and what nests too deeply can't be written again. What is text was looked at before."""
    if isinstance(value, JsonText):
        return value
    level = [value]
    for _ in range(_LEVELS):  # one by one, as nothing else is done while there are a million of them
        below: list[Any] = []
        for each in level:
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError("must hold finite numbers only")
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str):
                _text(each)
        if not below:
            return value
        level = below
    raise ValueError("must not nest deeper than 100 levels")


def _package(name: str) -> str:
    if not _NAME.match(name) or ".." in name:
        raise ValueError("must be the name of a package: letters, digits, '.', '_' and '-', no path and no URL")
    if glued := _GLUED.match(name):
        raise ValueError(f"looks like a name and a version; give them apart: {glued[1]!r} and '=={glued[2]}'")
    return name


def _version(text: str | None) -> str:
    if text is None or not text.strip():
        return ""
    parts = []
    for part in text.split(","):
        match = _VERSION.match(part)
        if not match:
            raise ValueError("must be a version such as '1.2', '==1.2' or '>=1,<2'")
        parts.append(f"{match[1] or '=='}{match[2]}")
    return ",".join(parts)


def bytes_of(text: str) -> int:
    """Bytes of a size such as ``512Mi``."""
    match = _SIZE.match(text)
    if not match:
        raise ValueError("must be an integer and Mi or Gi, such as '512Mi'")
    return int(match[1]) * _UNITS[match[2]]


def _size(text: str) -> str:
    bytes_of(text)
    return text


def _cores(text: Any) -> Any:
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = f"{text:g}" if abs(text) < 1000 else ""
    if isinstance(text, str) and re.fullmatch(r"[1-9][0-9]{0,5}m", text):
        text = f"{int(text[:-1]) / 1000:g}"
    if (
        not isinstance(text, str)
        or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text)
        or not 0.1 <= float(text) <= 64
    ):
        raise ValueError("must be a number of processors from 0.1 to 64, such as '1' or '500m'")
    return text


def _domain(text: str) -> str:
    if not text or len(text) > 260 or re.search(r"[\s/\\@?#\0]", text) or not _encodable(text):
        raise ValueError(f"{text[:80]!r} must be a host such as 'example.org', '*.example.org' or 'example.org:8443'")
    return text


Identifier = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_identifier)]
Variables = Annotated[
    dict[str, str], Field(max_length=_MOST_VARIABLES), _at_most(_MOST_VARIABLES), AfterValidator(_variables)
]
_WHOLE = AfterValidator(_text)
"""Comes after the length of a text: what comes before has its refusal speak of items in place of characters."""
Text = Annotated[str, _WHOLE]
JsonValue = Annotated[Any, AfterValidator(_json)]
Cores = Annotated[str, BeforeValidator(_cores)]
Size = Annotated[str, AfterValidator(_size)]
Domain = Annotated[str, AfterValidator(_domain)]
Seconds = Annotated[int, Field(ge=1, le=3600)]
Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s@]+$")]
Tags = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._/-]+$")],
        Annotated[str, Field(max_length=256), _WHOLE],
    ],
    Field(max_length=_MOST_TAGS),
    _at_most(_MOST_TAGS),
]


class Body(BaseModel):
    """The root of all bodies."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class DependencyBody(Body):
    """A package; a version without an operator means exactly that one."""

    name: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_package)]
    version: Annotated[str | None, Field(max_length=64), AfterValidator(_version)] = ""

    @property
    def record(self) -> Dependency:
        """The same, for the service."""
        return Dependency(name=self.name, version=self.version or "")


class NetworkBody(Body):
    """Hosts that may be reached: ``example.org``, ``*.example.org``, ``example.org:8443``. Empty is no network."""

    allowed_domains: Annotated[list[Domain], Field(max_length=200)] = []
    denied_domains: Annotated[list[Domain], Field(max_length=200)] = []

    @property
    def record(self) -> NetworkRules:
        """The same, for the service."""
        return NetworkRules(allowed_domains=tuple(self.allowed_domains), denied_domains=tuple(self.denied_domains))


Modules = Annotated[
    list[Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]],
    Field(max_length=64),
]
_TIMEOUT_NAMES = AliasChoices("default_timeout_sec", "default_timeout")
Timeout = Annotated[int, Field(ge=60, le=3600)]
Packages = Annotated[list[DependencyBody], Field(max_length=50)]


class TemplateFields(Body):
    """What a template has; ``default_timeout`` and ``default_timeout_sec`` are the same thing."""

    @model_validator(mode="before")
    @classmethod
    def _one_timeout(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            both = [data[name] for name in ("default_timeout", "default_timeout_sec") if data.get(name) is not None]
            if len(both) == 2 and both[0] != both[1]:
                raise ValueError("default_timeout and default_timeout_sec are the same thing and must not differ")
        return data


class TemplateBody(TemplateFields):
    """A new template."""

    id: Identifier
    name: Annotated[str, Field(min_length=1, max_length=255), _WHOLE]
    image_url: Annotated[str, Field(min_length=1, max_length=512), _WHOLE] = "ipybox"
    runtime_type: RuntimeType = "python3.11"
    default_cpu_cores: Annotated[float, Field(ge=0.1, le=4)] = 0.5
    default_memory_mb: Annotated[int, Field(ge=128, le=8192)] = 512
    default_disk_mb: Annotated[int, Field(ge=256, le=51200)] = 1024
    default_timeout: Annotated[Timeout, Field(validation_alias=_TIMEOUT_NAMES)] = 300
    default_env_vars: Variables = {}
    max_processes: Annotated[int, Field(ge=16, le=4096)] = 128
    preload: Modules = []
    packages: Packages = []
    package_index_url: Url | None = None
    network: NetworkBody = NetworkBody()
    warm: bool = True

    @property
    def limits(self) -> ResourceLimits:
        """Limits, for the service."""
        return ResourceLimits(
            cpu_cores=self.default_cpu_cores,
            memory_bytes=self.default_memory_mb * MIB,
            disk_bytes=self.default_disk_mb * MIB,
            max_processes=self.max_processes,
        )


class TemplateChanges(TemplateFields):
    """What is to be changed; what is left out or null stays as it is."""

    name: Annotated[str, Field(min_length=1, max_length=255), _WHOLE] | None = None
    image_url: Annotated[str, Field(min_length=1, max_length=512), _WHOLE] | None = None
    runtime_type: RuntimeType | None = None
    default_cpu_cores: Annotated[float, Field(ge=0.1, le=4)] | None = None
    default_memory_mb: Annotated[int, Field(ge=128, le=8192)] | None = None
    default_disk_mb: Annotated[int, Field(ge=256, le=51200)] | None = None
    default_timeout: Annotated[Timeout | None, Field(validation_alias=_TIMEOUT_NAMES)] = None
    default_env_vars: Variables | None = None
    max_processes: Annotated[int, Field(ge=16, le=4096)] | None = None
    preload: Modules | None = None
    packages: Packages | None = None
    package_index_url: Url | None = None
    network: NetworkBody | None = None
    warm: bool | None = None


class SessionBody(Body):
    """A new session. What is left out is what the template says; nothing can be more than that."""

    id: Identifier | None = None
    template_id: Annotated[str, Field(min_length=1, max_length=64), _WHOLE]
    mode: Annotated[str, Field(max_length=64), _WHOLE] | None = None
    timeout: Seconds | None = None
    cpu: Cores | None = None
    memory: Size | None = None
    disk: Size | None = None
    max_processes: Annotated[int, Field(ge=8, le=4096)] | None = None
    env_vars: Variables = {}
    event: JsonValue = None
    tags: Tags = {}
    network: NetworkBody | None = None
    dependencies: Packages = []
    install_timeout: Annotated[int, Field(ge=30, le=1800)] = 300
    fail_on_dependency_error: bool = True
    allow_version_conflicts: bool = False
    python_package_index_url: Url | None = None


class InstallBody(Body):
    """Packages to install into a session that is there."""

    dependencies: Annotated[list[DependencyBody], Field(min_length=1, max_length=50)]
    python_package_index_url: Url | None = None
    install_timeout: Annotated[int, Field(ge=30, le=1800)] = 300
    allow_version_conflicts: bool = False


class RenewBody(Body):
    """For how many seconds from now a session is to be kept; its own timeout if nothing is said."""

    timeout: Seconds | None = None


class ExecuteBody(Body):
    """Code to run. ``timeout`` and ``timeout_sec`` are the same thing; ``event`` is what a handler is called with."""

    code: Annotated[str, Field(min_length=1, max_length=CODE_CHARACTERS), _WHOLE]
    language: Language = "python"
    kind: Literal["handler", "cell"] | None = None
    timeout: Annotated[
        int, Field(ge=1, le=3600, validation_alias=AliasChoices("timeout", "timeout_sec", "timeout_seconds"))
    ] = 30
    event: JsonValue = {}
    env_vars: Variables = {}

    @model_validator(mode="after")
    def _kind_of_python(self) -> Self:
        if self.kind is not None and self.language != "python":
            raise ValueError("kind is for Python only: leave it out")
        return self


class ReadyBody(Body):
    """An executor says that a container is ready."""

    container_id: Annotated[str, Field(min_length=1, max_length=128), _WHOLE]
    pod_name: Annotated[str, Field(max_length=255), _WHOLE] | None = None
    executor_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    ready_at: Annotated[str, Field(max_length=64), _WHOLE] | None = None


class ExitedBody(Body):
    """An executor says that a container is gone."""

    container_id: Annotated[str, Field(min_length=1, max_length=128), _WHOLE]
    exit_code: int | None = None
    exit_reason: Annotated[str, Field(max_length=255), _WHOLE] | None = None


class ReportBody(Body):
    """An executor says what became of an execution."""

    status: Annotated[str, Field(max_length=32), _WHOLE]
    stdout: Text = ""
    stderr: Text = ""
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    execution_time: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    return_value: JsonValue = None
    metrics: JsonValue = None
    artifacts: JsonValue = None


class KeyBody(Body):
    """A new key."""

    name: Annotated[str, Field(min_length=1, max_length=100), _WHOLE]
    owner: Identifier
    scopes: Annotated[
        list[Literal["read", "execute", "templates", "internal", "admin"]], Field(min_length=1, max_length=20)
    ] = [
        "read",
        "execute",
    ]
    expires_in: Annotated[int, Field(ge=1, le=10 * 366 * 86400)] | None = None
    max_sessions: Annotated[int, Field(ge=0, le=100_000)] | None = None
    max_executions: Annotated[int, Field(ge=0, le=100_000)] | None = None


class RotateBody(Body):
    """For how many seconds the old key is good besides the new one."""

    overlap: Annotated[int, Field(ge=0, le=30 * 86400)] = 0
