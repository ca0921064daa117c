"""``ipybox template``. Floor: cli."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipybox.cli.env import parse_env
from ipybox.cli.server_calls import OURSELVES, complain, say, say_json, show_table, time_text
from ipybox.control.client.client import AsyncControlClient
from ipybox.control.client.models import NetworkRules, TemplateInfo
from ipybox.control.client.options import TemplateOptions
from ipybox.control.errors import ServerError

_SIZE = re.compile(r"([1-9][0-9]{0,9})(Mi|Gi)")
_CLEARED: dict[str, TemplateOptions] = {
    "env": {"default_env_vars": {}},
    "preload": {"preload": ()},
    "packages": {"packages": ()},
    "network": {"network": ()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRequest:
    """What a template is to be, as it was typed. ``allow`` and ``deny`` are hosts."""

    options: TemplateOptions
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @classmethod
    def of(cls, typed: Mapping[str, Any], clear: Sequence[str] = ()) -> TemplateRequest:
        """Raises ``ValueError`` when it makes no sense."""
        given: TemplateOptions = {
            "name": typed["name"],
            "runtime_type": typed["runtime"],
            "default_cpu_cores": typed["cpu"],
            "default_memory_mb": _mebibytes(typed["memory"], "--memory"),
            "default_disk_mb": _mebibytes(typed["disk"], "--disk"),
            "max_processes": typed["processes"],
            "default_timeout": typed["timeout"],
            "default_env_vars": parse_env(typed["env"] or []) or None,
            "preload": typed["preload"] or None,
            "packages": typed["package"] or None,
            "package_index_url": typed["index"],
            "warm": typed["warm"],
        }
        options: TemplateOptions = {}
        for name in clear:
            if name not in _CLEARED:
                raise ValueError(f"--clear wants one of {', '.join(_CLEARED)}, got {name!r}")
            options |= _CLEARED[name]
        for field, value in given.items():
            if value is not None:
                options[field] = value  # type: ignore[literal-required]
        return cls(options=options, allow=tuple(typed["allow"] or ()), deny=tuple(typed["deny"] or ()))

    def network(self, old: NetworkRules) -> NetworkRules:
        """Who says which hosts are allowed does not take back which are denied, nor the other way."""
        return NetworkRules(
            allowed_domains=self.allow or old.allowed_domains, denied_domains=self.deny or old.denied_domains
        )


async def create(client: AsyncControlClient, id: str, request: TemplateRequest, *, as_json: bool) -> None:
    """Makes a template."""
    options = request.options | {"network": request.network(NetworkRules())}
    _tell(await client.templates.create(id, **options), as_json)


async def update(client: AsyncControlClient, id: str, request: TemplateRequest, *, as_json: bool) -> None:
    """Changes a template."""
    options = request.options
    if request.allow or request.deny:
        is_new = "network" in options or (request.allow and request.deny)
        old = NetworkRules() if is_new else (await client.templates.get(id)).network
        options = options | {"network": request.network(old)}
    _tell(await client.templates.update(id, **options), as_json)


async def show_list(client: AsyncControlClient, *, as_json: bool) -> None:
    """Lists templates."""
    found = await client.templates.list()
    if as_json:
        say_json(found)
        return
    show_table(
        ("ID", "NAME", "RUNTIME", "OWNER", "NETWORK", "PACKAGES", "CREATED"),
        [
            (
                each.id,
                each.name,
                each.runtime_type,
                each.owner,
                _hosts(each),
                _packages(each),
                time_text(each.created_at),
            )
            for each in found
        ],
    )


async def show(client: AsyncControlClient, id: str, *, as_json: bool) -> None:
    """Shows a template."""
    found = await client.templates.get(id)
    if as_json:
        say_json(found)
        return
    facts = {
        "id": found.id,
        "name": found.name,
        "owner": found.owner,
        "runtime": found.runtime_type,
        "image": found.image_url,
        "limits": f"cpu {found.default_cpu_cores:g}, memory {found.default_memory_mb}Mi, "
        f"disk {found.default_disk_mb}Mi, processes {found.max_processes}",
        "timeout": f"{found.default_timeout} s",
        "network": _hosts(found) or "none",
        "refused": ", ".join(found.network.denied_domains),
        "preloads": ", ".join(found.preload),
        "packages": _packages(found),
        "index": found.package_index_url or "",
        "variables": ", ".join(f"{name}={value}" for name, value in found.default_env_vars.items()),
        "kept warm": "yes" if found.warm else "no",
        "created": time_text(found.created_at),
        "changed": time_text(found.updated_at),
    }
    show_table(("", ""), [pair for pair in facts.items() if pair[1]])


async def delete(client: AsyncControlClient, ids: Sequence[str]) -> int:
    """Removes templates; what can't be is said, and the others go."""
    code = 0
    for each in ids:
        try:
            await client.templates.delete(each)
        except ServerError as error:
            if error.status in (0, 401):
                raise
            code = complain(f"{each}: {error}", OURSELVES)
    return code


def _mebibytes(size: str | None, option: str) -> int | None:
    """A size such as 512Mi or 1Gi, as templates have it."""
    if size is None:
        return None
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f"{option} must be an integer and Mi or Gi, such as 512Mi, got {size!r}")
    return int(found[1]) * (1024 if found[2] == "Gi" else 1)


def _tell(template: TemplateInfo, as_json: bool) -> None:
    if as_json:
        say_json(template)
    else:
        say(template.id)


def _hosts(template: TemplateInfo) -> str:
    return ", ".join(template.network.allowed_domains)


def _packages(template: TemplateInfo) -> str:
    return ", ".join(each.name + each.version for each in template.packages)
