"""The options of ``ipybox template``. Floor: cli."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ipybox.cli.extra_options import Command, option, with_options
from ipybox.cli.server_calls import AsJson, ServerKey, ServerUrl

template_app = typer.Typer(
    help="Look after the templates of an `ipybox serve`: what sessions are made from.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TemplateId = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Id of the template.")]
_OPTIONS = {
    "name": Annotated[str | None, typer.Option(help="What people call it.")],
    "runtime": Annotated[str | None, typer.Option(help="Such as python3.11 or nodejs20.")],
    "cpu": Annotated[float | None, typer.Option(help="Processors of a session, 0.1 to 4.")],
    "memory": Annotated[str | None, typer.Option(help="Memory of a session, such as 512Mi.")],
    "disk": Annotated[str | None, typer.Option(help="Size of a session's workspace, such as 1Gi.")],
    "processes": Annotated[int | None, typer.Option(help="Processes that a session may have at once.")],
    "timeout": Annotated[int | None, typer.Option(help="Seconds for which a session is kept unused.")],
    "env": Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set in sessions; repeatable.")],
    "preload": Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Import it beforehand; repeatable.")],
    "package": Annotated[
        list[str] | None, typer.Option(metavar="NAME[==VERSION]", help="Install it beforehand; repeatable.")
    ],
    "index": Annotated[str | None, typer.Option(metavar="URL", help="Where packages come from.")],
    "allow": Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="A host that may be reached; repeatable. None: no network.")
    ],
    "deny": Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="One that may not, though it is allowed; repeatable.")
    ],
    "warm": Annotated[
        bool | None,
        typer.Option("--warm/--no-warm", help="Have its Python ready, so that sessions are forked from it."),
    ],
}


def _with_template_options(command: Command) -> Command:
    return with_options(command, (option(name, annotation) for name, annotation in _OPTIONS.items()))


@template_app.command()
@_with_template_options
def create(
    template: TemplateId,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Make a template. What is left out is the server's default."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError):
        request = template_commands.TemplateRequest.of(options)
    raise ask(server, api_key, lambda client: template_commands.create(client, template, request, as_json=as_json))


@template_app.command()
@_with_template_options
def update(
    template: TemplateId,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Empty env, preload, packages or network; repeatable.")
    ] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Change a template: what is given takes the place of what was. Sessions that are there keep what they have."""
    from ipybox.cli import template_commands
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError):
        request = template_commands.TemplateRequest.of(options, clear or ())
    raise ask(server, api_key, lambda client: template_commands.update(client, template, request, as_json=as_json))


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
