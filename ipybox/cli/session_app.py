"""The options of ``ipybox session``. Floor: cli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipybox.cli.server_calls import AsJson, ServerKey, ServerUrl

session_app = typer.Typer(
    help="Work in sessions of an `ipybox serve`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Id of the session.")]
Env = Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set for it; repeatable.")]
CodeTimeout = Annotated[int, typer.Option("--timeout", help="Seconds that it may take.")]
ImagesDir = Annotated[Path | None, typer.Option(help="Where images are saved; without it, they are not.")]


@session_app.command()
def create(
    template: Annotated[str, typer.Argument(help="What it is made from.")] = "python",
    id: Annotated[str | None, typer.Option(help="Its id; one is found if it is left out.")] = None,
    mode: Annotated[
        str, typer.Option(help="stateless, or stateful: code finds the variables of the code before.")
    ] = "stateless",
    timeout: Annotated[int | None, typer.Option(help="Seconds for which it is kept unused.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Processors, such as 1 or 500m.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory, such as 512Mi.")] = None,
    disk: Annotated[str | None, typer.Option(help="Size of its workspace, such as 1Gi.")] = None,
    env: Env = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="To find it by; repeatable.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Of the hosts that the template allows; repeatable.")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="NAME[==VERSION]", help="Install it before it runs; repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it runs, or at once.")] = True,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a session, and print its id."""
    from ipybox.cli import session_commands
    from ipybox.cli.env import parse_env
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError):
        env_vars, tags = parse_env(env or []), parse_env(tag or [], "--tag")
    raise ask(
        server,
        api_key,
        lambda client: session_commands.create(
            client,
            template,
            {
                "id": id,
                "mode": mode,
                "timeout": timeout,
                "cpu": cpu,
                "memory": memory,
                "disk": disk,
                "env_vars": env_vars or None,
                "tags": tags or None,
                "network": allow or None,
                "dependencies": package or None,
            },
            waits=wait,
            as_json=as_json,
        ),
    )


@session_app.command("list")
def list_(
    status: Annotated[list[str] | None, typer.Option(help="Only such as creating or running; repeatable.")] = None,
    template: Annotated[str | None, typer.Option(help="Only those of this template.")] = None,
    mode: Annotated[str | None, typer.Option(help="Only stateless or stateful ones.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with it; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """List sessions, newest first."""
    from ipybox.cli import session_commands
    from ipybox.cli.env import parse_env
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError):
        tags = parse_env(tag or [], "--tag")
    raise ask(
        server,
        api_key,
        lambda client: session_commands.show_list(
            client, status=status or None, template=template, mode=mode, tags=tags, limit=limit, as_json=as_json
        ),
    )


@session_app.command()
def show(session: SessionId, server: ServerUrl = None, api_key: ServerKey = None, as_json: AsJson = False) -> None:
    """Show a session."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.show(client, session, as_json=as_json))


@session_app.command()
def run(
    session: SessionId,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A file, or - for standard input.")],
    language: Annotated[
        str | None, typer.Option(help="python, javascript or shell; what the file's name says if left out.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="handler: it defines handler(event); cell: as one types it in a stateful session."),
    ] = None,
    event: Annotated[str | None, typer.Option(metavar="JSON", help="What its handler gets.")] = None,
    timeout: CodeTimeout = 30,
    env: Env = None,
    images_dir: ImagesDir = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON in place of the output.")] = False,
) -> None:
    """Run a file in a session: stream its output, exit with its truth.

    Exit codes: 0 fine; 1 it raised; what it exited with; 2 wrong usage; 124 timeout; 125 ipybox or the server failed;
    130 Ctrl-C, which interrupts it on the server, too.
    """
    import json

    from ipybox.cli import session_run
    from ipybox.cli.env import parse_env
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError, OSError):
        code = session_run.code_of(file)
        env_vars = parse_env(env or [])
        try:
            said = None if event is None else json.loads(event)
        except ValueError as error:
            raise ValueError(f"--event must be JSON: {error}") from None
    chosen = language or session_run.LANGUAGES.get(Path(file).suffix, "python")
    raise ask(
        server,
        api_key,
        lambda client: session_run.run_code(
            client,
            session,
            code,
            {"language": chosen, "kind": kind, "timeout": timeout, "event": said, "env_vars": env_vars},
            images_dir=images_dir,
            as_json=as_json,
        ),
    )


@session_app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    session: SessionId,
    command: Annotated[list[str], typer.Argument(metavar="CMD...", help="The command and its arguments, after --.")],
    timeout: CodeTimeout = 30,
    env: Env = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON in place of the output.")] = False,
) -> None:
    """Run one command in a session: stream its output, exit with its truth. Options come before SESSION."""
    import shlex

    from ipybox.cli import session_run
    from ipybox.cli.env import parse_env
    from ipybox.cli.server_calls import ask, refuse

    with refuse(ValueError):
        env_vars = parse_env(env or [])
    words = command[1:] if command[0] == "--" else command
    raise ask(
        server,
        api_key,
        lambda client: session_run.run_code(
            client,
            session,
            shlex.join(words),
            {"language": "shell", "timeout": timeout, "env_vars": env_vars},
            images_dir=None,
            as_json=as_json,
        ),
    )


@session_app.command()
def logs(
    id: Annotated[str, typer.Argument(metavar="EXECUTION|SESSION", help="An execution, or a session's last one.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it ends, and exit with its truth.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="Only what came after the event of that number.")] = 0,
    images_dir: ImagesDir = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON.")] = False,
) -> None:
    """Show what an execution has said."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(
        server,
        api_key,
        lambda client: session_commands.logs(
            client, id, follows=follow, after=after, images_dir=images_dir, as_json=as_json
        ),
    )


@session_app.command()
def upload(
    session: SessionId,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A file here, or - for standard input.")],
    path: Annotated[
        str | None,
        typer.Argument(help="Path in the workspace, a directory if it ends in /; the file's name if left out."),
    ] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a file into a session's workspace."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.upload(client, session, file, path, as_json=as_json))


@session_app.command()
def download(
    session: SessionId,
    path: Annotated[str, typer.Argument(help="Path in the workspace.")],
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE|-]", help="Where to, or - for standard output; here if left out.")
    ] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
) -> None:
    """Fetch a file of a session's workspace."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.download(client, session, path, file))


@session_app.command()
def files(
    session: SessionId,
    path: Annotated[str, typer.Argument(help="A directory of the workspace.")] = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also what is in directories below.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 1000,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """List files of a session's workspace."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(
        server,
        api_key,
        lambda client: session_commands.show_files(
            client, session, path, recursive=recursive, limit=limit, as_json=as_json
        ),
    )


@session_app.command()
def renew(
    session: SessionId,
    timeout: Annotated[int | None, typer.Option(help="Seconds from now; its own timeout if left out.")] = None,
    server: ServerUrl = None,
    api_key: ServerKey = None,
    as_json: AsJson = False,
) -> None:
    """Keep a session for longer."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.renew(client, session, timeout, as_json=as_json))


@session_app.command()
def interrupt(
    id: Annotated[str, typer.Argument(metavar="EXECUTION|SESSION", help="An execution, or all that run in a session.")],
    server: ServerUrl = None,
    api_key: ServerKey = None,
) -> None:
    """Interrupt code, as Ctrl-C does. Exit code 1 when there was nothing to interrupt."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.interrupt(client, id))


@session_app.command()
def terminate(
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Ids of sessions.")],
    server: ServerUrl = None,
    api_key: ServerKey = None,
) -> None:
    """End sessions. Their records and files stay for a while."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.end(client, sessions, forgets=False))


@session_app.command()
def delete(
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Ids of sessions.")],
    server: ServerUrl = None,
    api_key: ServerKey = None,
) -> None:
    """End sessions, and remove their files and records."""
    from ipybox.cli import session_commands
    from ipybox.cli.server_calls import ask

    raise ask(server, api_key, lambda client: session_commands.end(client, sessions, forgets=True))
