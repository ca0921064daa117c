"""The options of ``ipybox template``. Floor: cli."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ipybox.cli.server_calls import AsJson, ServerKey, ServerUrl

if TYPE_CHECKING:
    from ipybox.control.client.options import TemplateOptions

template_app = typer.Typer(
    help="Look after the templates of an `ipybox serve`: what sessions are made from.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TemplateId = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Id of the template.")]
Name = Annotated[str | None, typer.Option(help="What people call it.")]
Runtime = Annotated[str | None, typer.Option(help="Such as python3.11 or nodejs20.")]
Cpu = Annotated[float | None, typer.Option(help="Processors of a session, 0.1 to 4.")]
Memory = Annotated[str | None, typer.Option(help="Memory of a session, such as 512Mi.")]
Disk = Annotated[str | None, typer.Option(help="Size of a session's workspace, such as 1Gi.")]
Processes = Annotated[int | None, typer.Option(help="Processes that a session may have at once.")]
Timeout = Annotated[int | None, typer.Option(help="Seconds for which a session is kept unused.")]
Env = Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set in sessions; repeatable.")]
Preload = Annotated[
    list[str] | None, typer.Option("--preload", metavar="MODULE", help="Import it beforehand; repeatable.")
]
Package = Annotated[
    list[str] | None,
    typer.Option("--package", metavar="NAME[==VERSION]", help="Install it beforehand; repeatable."),
]
Index = Annotated[str | None, typer.Option(metavar="URL", help="Where packages come from.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="HOST", help="A host that sessions may reach; repeatable. None: no network."),
]
Deny = Annotated[
    list[str] | None, typer.Option("--deny", metavar="HOST", help="One that they may not, even so; repeatable.")
]
Warm = Annotated[
    bool | None, typer.Option("--warm/--no-warm", help="Have its Python ready, so that sessions are forked from it.")
]


@template_app.command()
def create(
    template: TemplateId,
    name: Name = None,
    runtime: Runtime = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Disk = None,
    processes: Processes = None,
    timeout: Timeout = None,
    env: Env = None,
    preload: Preload = None,
    package: Package = None,
    index: Index = None,
    allow: Allow = None,
    deny: Deny = None,
    warm: Warm = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a template. What is left out is the server's default."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask

    options = _options(name, runtime, cpu, memory, disk, processes, timeout, env, preload, package, index, warm)
    raise ask(
        server,
        api_key,
        lambda client: template_commands.create(client, template, options, allow, deny, as_json=as_json),
    )


@template_app.command()
def update(
    template: TemplateId,
    name: Name = None,
    runtime: Runtime = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Disk = None,
    processes: Processes = None,
    timeout: Timeout = None,
    env: Env = None,
    preload: Preload = None,
    package: Package = None,
    index: Index = None,
    allow: Allow = None,
    deny: Deny = None,
    warm: Warm = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Empty env, preload, packages or network; repeatable.")
    ] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Change a template: what is given takes the place of what was. Sessions that are there keep what they have."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask, refuse

    options = _options(name, runtime, cpu, memory, disk, processes, timeout, env, preload, package, index, warm)
    with refuse(ValueError):
        options = {**template_commands.cleared(clear or []), **options}
    raise ask(
        server,
        api_key,
        lambda client: template_commands.update(client, template, options, allow, deny, as_json=as_json),
    )


@template_app.command("list")
def list_(server: ServerUrl = None, api_key: ServerKey = None, as_json: AsJson = False) -> None:
    """List templates, oldest first."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: template_commands.show_list(client, as_json=as_json))


@template_app.command()
def show(template: TemplateId, server: ServerUrl = None, api_key: ServerKey = None, as_json: AsJson = False) -> None:
    """Show a template."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: template_commands.show(client, template, as_json=as_json))


@template_app.command()
def delete(
    templates: Annotated[list[str], typer.Argument(metavar="TEMPLATE...", help="Ids of templates.")],
    server: ServerUrl = None,
    api_key: ServerKey = None,
) -> None:
    """Delete templates. Sessions that were made from them go on."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: template_commands.delete(client, templates))


def _options(
    name: str | None,
    runtime: str | None,
    cpu: float | None,
    memory: str | None,
    disk: str | None,
    processes: int | None,
    timeout: int | None,
    env: list[str] | None,
    preload: list[str] | None,
    package: list[str] | None,
    index: str | None,
    warm: bool | None,
) -> TemplateOptions:
    from ipybox.cli.env import parse_env
    from ipybox.cli.server_calls import refuse
    from ipybox.cli.template_commands import mebibytes

    with refuse(ValueError):
        found: TemplateOptions = {
            "name": name,
            "runtime_type": runtime,
            "default_cpu_cores": cpu,
            "default_memory_mb": mebibytes(memory, "--memory"),
            "default_disk_mb": mebibytes(disk, "--disk"),
            "max_processes": processes,
            "default_timeout": timeout,
            "default_env_vars": parse_env(env or []) or None,
            "preload": preload or None,
            "packages": package or None,
            "package_index_url": index,
            "warm": warm,
        }
    # What was not given must not hide what is to be emptied.
    return {name: value for name, value in found.items() if value is not None}  # type: ignore[return-value]
