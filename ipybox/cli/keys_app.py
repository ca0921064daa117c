"""The options of ``ipybox keys``. Floor: cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipybox.cli.server_calls import AsJson, ServerKey, ServerUrl

keys_app = typer.Typer(
    help="Look after the keys of an `ipybox serve`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The part of a key that names it.")]


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    owner: Annotated[str, typer.Option(help="Whose sessions it sees.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, execute, templates, internal or admin; repeatable. Default: read and execute."),
    ] = None,
    expires_in: Annotated[int | None, typer.Option(min=1, help="Seconds for which it is good.")] = None,
    max_sessions: Annotated[int | None, typer.Option(min=0, help="Sessions alive at once.")] = None,
    max_executions: Annotated[int | None, typer.Option(min=0, help="Executions that run or wait.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="State directory of a server: makes the key there, without asking the server.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Database of a server, likewise. Its password is seen by `ps`: see --config.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file of a server, likewise.")] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print its secret, this once.

    The first key for a server is made on its machine with --state-dir, --database-url or --config; also while it runs.
    """
    from ipybox.cli import keys

    request = keys.KeyRequest(
        name=name,
        owner=owner,
        scopes=tuple(scope or ("read", "execute")),
        expires_in=expires_in,
        max_sessions=max_sessions,
        max_executions=max_executions,
    )
    if state_dir is None and database_url is None and config is None:
        from ipybox.cli.server_calls import ask

        raise ask(server, api_key, lambda client: keys.create(client, request, as_json=as_json))
    raise keys.create_here(request, state_dir, database_url, config, as_json=as_json)


@keys_app.command("list")
def list_(server: ServerUrl = None, api_key: ServerKey = None, as_json: AsJson = False) -> None:
    """List keys, without their secrets."""
    from ipybox.cli import keys
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: keys.show_list(client, as_json=as_json))


@keys_app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[int, typer.Option(min=0, help="Seconds for which the old one stays good.")] = 0,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in place of another one, and print its secret, this once."""
    from ipybox.cli import keys
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: keys.rotate(client, key_id, overlap, as_json=as_json))


@keys_app.command()
def revoke(key_id: KeyId, server: ServerUrl = None, api_key: ServerKey = None) -> None:
    """Revoke a key, from now on."""
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: client.keys.revoke(key_id))
