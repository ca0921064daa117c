"""The commands and their options. Floor: cli."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ipybox import __version__
from ipybox.cli.keys_app import keys_app
from ipybox.cli.server_options import with_server_options
from ipybox.cli.session_app import session_app
from ipybox.cli.template_app import template_app

app = typer.Typer(
    name="ipybox",
    help="Run Python in stateful IPython kernels that lose no output and never hang.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(session_app, name="session")
app.add_typer(template_app, name="template")
app.add_typer(keys_app, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ipybox {__version__}")
        raise typer.Exit


@app.callback()
def _ipybox(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run Python in stateful IPython kernels that lose no output and never hang."""


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    file: Annotated[str, typer.Argument(help="A Python file, or - for standard input.", metavar="FILE|-")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Becomes sys.argv[1:].", metavar="[ARG]...")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that the code may run.")] = None,
    images_dir: Annotated[Path, typer.Option(help="Where images are saved.")] = Path("images"),
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set for the code; repeatable.")] = None,
    working_dir: Annotated[Path | None, typer.Option(help="Working directory of the code.")] = None,
    memory_limit: Annotated[int | None, typer.Option(help="Bytes of memory that the code may use.")] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Run it in a sandbox: no network, no other files.")
    ] = False,
    sandbox_config: Annotated[Path | None, typer.Option(help="JSON file with the sandbox's policy.")] = None,
    learn: Annotated[bool, typer.Option("--learn", help="Print the allow-list that the code needed.")] = False,
) -> None:
    """Run a file in a fresh kernel: stream its output, save its images, exit with its truth.

    Exit codes: 0 fine; 1 the code raised; what sys.exit() or os._exit() said; 124 timeout; 125 ipybox itself failed;
    128+N the kernel was killed by signal N; 130 Ctrl-C.
    """
    from ipybox.cli.run import run_file

    raise typer.Exit(
        run_file(
            file,
            arguments or [],
            timeout=timeout,
            images_dir=images_dir,
            env=env or [],
            working_dir=working_dir,
            memory_limit=memory_limit,
            sandbox=sandbox or sandbox_config is not None or learn,
            sandbox_config=sandbox_config,
            learn=learn,
        )
    )


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.", metavar="CMD...")],
    driver: Annotated[
        str, typer.Option(help="bubblewrap, firejail, docker, podman, or host (which isolates nothing).")
    ] = "bubblewrap",
    waive: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="What the driver need not enforce; repeatable.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image for docker and podman.")] = None,
    base_dir: Annotated[Path, typer.Option(help="Where private work directories are made.")] = Path("/tmp"),
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.")] = 5.0,
    idle_timeout: Annotated[float | None, typer.Option(help="Seconds that it may be silent.")] = None,
    memory: Annotated[str, typer.Option(help="Bytes of memory, such as 512M.")] = "128M",
    cpus: Annotated[float | None, typer.Option(help="Processors at once.")] = None,
    cpu_time: Annotated[int | None, typer.Option(help="Seconds of processor time per process.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes and threads at most.")] = None,
    read: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="May be read; repeatable.")] = None,
    write: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="May be written; repeatable.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set for it; repeatable.")] = None,
    inherit_env: Annotated[
        bool, typer.Option("--inherit-env", help="Pass on the environment, without secrets.")
    ] = False,
    network: Annotated[bool, typer.Option("--network", help="May reach any host.")] = False,
    allow: Annotated[list[str] | None, typer.Option(metavar="HOST", help="May reach it; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON in place of the output.")] = False,
) -> None:
    """Run one command in a sandbox: pass its input and output through, exit with its truth.

    In a session of an `ipybox serve`, that is `ipybox session exec`.

    Exit codes: the command's; 124 timeout; 125 ipybox itself failed; 126 not executable; 127 not found; 128+N ended by
    signal N; 130 Ctrl-C.
    """
    from ipybox.cli.exec import exec_command

    raise typer.Exit(
        exec_command(
            command,
            driver=driver,
            waive=waive or [],
            image=image,
            base_dir=base_dir,
            timeout=timeout,
            idle_timeout=idle_timeout,
            memory=memory,
            cpus=cpus,
            cpu_time=cpu_time,
            processes=processes,
            read=read or [],
            write=write or [],
            env=env or [],
            inherit_env=inherit_env,
            network=network,
            allow=allow or [],
            as_json=as_json,
        )
    )


@app.command()
def gateway(
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "localhost",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8888,
    token: Annotated[bool, typer.Option("--token", help="Generate a token and require it.")] = False,
    working_dir: Annotated[Path | None, typer.Option(help="Working directory of kernels.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set in kernels; repeatable.")] = None,
    memory_limit: Annotated[int | None, typer.Option(help="Bytes of memory per kernel.")] = None,
    preload: Annotated[
        list[str] | None, typer.Option(metavar="MODULE", help="Import once for all kernels; repeatable.")
    ] = None,
    pool_size: Annotated[int, typer.Option(help="Kernels to keep ready.")] = 0,
    max_kernels: Annotated[int | None, typer.Option(help="Kernels at most.")] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Every kernel in a sandbox of its own.")] = False,
    sandbox_config: Annotated[Path | None, typer.Option(help="JSON file with the sandbox's policy.")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING, ERROR or CRITICAL.")] = "INFO",
) -> None:
    """Run a gateway in the foreground until Ctrl-C."""
    from ipybox.cli.gateway import run_gateway

    raise typer.Exit(
        run_gateway(
            host=host,
            port=port,
            token=token,
            working_dir=working_dir,
            env=env or [],
            memory_limit=memory_limit,
            preload=preload or [],
            pool_size=pool_size,
            max_kernels=max_kernels,
            sandbox=sandbox or sandbox_config is not None,
            sandbox_config=sandbox_config,
            log_level=log_level,
        )
    )


@app.command()
@with_server_options
def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings, with underscores in their names.")
    ] = None,
    **flags: Any,
) -> None:
    """Run the control plane in the foreground: sessions for many, over HTTP.

    Options win over environment variables, those over the file. Exit codes: 0 after it was asked to stop; 2 bad
    settings; 125 it failed. The first key is made with `ipybox keys create --state-dir`.
    """
    from ipybox.cli.serve import run_server

    raise typer.Exit(run_server(flags, config))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what works on this machine, and what does not and why. Exit code 1 when kernels can't run."""
    from ipybox.cli.doctor import diagnose

    raise typer.Exit(diagnose(as_json=as_json))


@app.command("test")
def run_project_tests(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, directories, test ids; after -- more options of the framework.")
    ] = None,
    isolate: Annotated[str, typer.Option(help="What gets a sandbox of its own: test, class or file.")] = "test",
    framework: Annotated[str, typer.Option(help="pytest or unittest.")] = "pytest",
    command: Annotated[str | None, typer.Option(help="Run this instead, once, such as 'npx jest --ci ...'.")] = None,
    report: Annotated[
        str | None, typer.Option(metavar="KIND:FILE", help="What it writes: junit:, tap: or jest-json: and a file.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-n", help="Most sandboxes at the same time.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a test may take.")] = 60.0,
    memory: Annotated[int, typer.Option(help="Bytes of memory that a sandbox may use.")] = 1024**3,
    processes: Annotated[int, typer.Option(help="Processes and threads that a sandbox may have.")] = 256,
    keyword: Annotated[str | None, typer.Option("-k", metavar="EXPRESSION", help="Only tests that match.")] = None,
    marker: Annotated[str | None, typer.Option("-m", metavar="EXPRESSION", help="Only tests with such marks.")] = None,
    exit_first: Annotated[bool, typer.Option("-x", "--exitfirst", help="Stop after the first failure.")] = False,
    maxfail: Annotated[int, typer.Option(help="Stop after that many failures.")] = 0,
    last_failed: Annotated[bool, typer.Option("--lf", "--last-failed", help="Only what failed last time.")] = False,
    retries: Annotated[int, typer.Option(help="Times to try again after an infrastructure error.")] = 2,
    reruns: Annotated[int, typer.Option(help="Times to run a test again that failed.")] = 0,
    preload: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Import once for all sandboxes, outside of them; repeatable."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set for tests; repeatable.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="A host that tests may reach; repeatable.")
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Tests may reach any public host.")] = False,
    read: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Something else that tests may read; repeatable.")
    ] = None,
    hash_seed: Annotated[str, typer.Option(help="Seed of hashes: a number, or random.")] = "0",
    time_zone: Annotated[str, typer.Option(help="Time zone of tests.")] = "UTC",
    locale: Annotated[str, typer.Option(help="Locale of tests.")] = "C.UTF-8",
    cached: Annotated[bool, typer.Option("--cached", help="Leave out what passed with the same files.")] = False,
    history: Annotated[Path | None, typer.Option(help="File with the results of earlier runs.")] = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Keep no results.")] = False,
    trend: Annotated[bool, typer.Option("--trend", help="Show the last runs.")] = False,
    junitxml: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JSON.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML report.")] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Tell this address about the end.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show each test.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the last line only.")] = False,
    colour: Annotated[bool | None, typer.Option("--color/--no-color", help="Use colours, or none.")] = None,
) -> None:
    """Run a project's tests, each in a fresh sandbox, in parallel.

    Exit codes are pytest's: 0 all succeeded; 1 some did not; 2 interrupted, or files could not be collected; 3 ipybox
    or the machine failed; 4 wrong usage; 5 no tests. The secret for --webhook is taken from IPYBOX_WEBHOOK_SECRET.
    """
    from ipybox.cli.test import TestOptions, external_command, random_seed, run_tests, settings_from

    try:
        if hash_seed == "random":
            hash_seed = str(random_seed())
            typer.echo(f"hash seed: {hash_seed}")
        settings = settings_from(
            paths or [],
            isolation=isolate,
            framework=framework,
            workers=workers,
            timeout=timeout,
            memory=memory,
            processes=processes,
            keyword=keyword,
            marker=marker,
            most_failures=1 if exit_first else maxfail,
            retries=retries,
            rerun_failures=reruns,
            preload=tuple(preload or ()),
            env=env or [],
            network=network or tuple(allow or ()),
            readable=tuple(read or ()),
            hash_seed=hash_seed,
            time_zone=time_zone,
            locale=locale,
        )
        options = TestOptions(
            command=external_command(command, report),
            junitxml=junitxml,
            json=json,
            html=html,
            cached=cached,
            last_failed=last_failed,
            history=history,
            keeps_history=not no_history,
            trend=trend,
            webhook=webhook,
            webhook_secret=os.environ.get("IPYBOX_WEBHOOK_SECRET"),
            verbosity=-1 if quiet else int(verbose),
            colour=colour,
        )
    except ValueError as error:
        typer.echo(f"ipybox: {error}", err=True)
        raise typer.Exit(4) from None
    raise typer.Exit(run_tests(settings, options))
