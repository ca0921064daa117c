"""Runs a command of another framework in a sandbox, and tells how it ended and what its report is. Floor: testrun.

Nobody outside follows a path that sandboxed code can write, so the report is read in here, and its bytes go over the
private line. The command is executed: it inherits neither the line nor its secret, and can't look into this process.
What the report says is up to the command all the same, and to the tests that it runs.

Messages: ``command`` with the exit code, or minus a signal; ``not_started`` with the reason; then parts of the report
as ``report``, in base64; or ``no_report`` with the reason; and ``end``.
"""

from __future__ import annotations

import base64
import os
import select
import stat
import subprocess
from collections.abc import Sequence
from typing import NoReturn

from ipybox.sandbox import confine
from ipybox.testrun import channel
from ipybox.testrun.request import REPORT_FD, REQUEST_FD, Request

MODULE = __name__
STDOUT = "stdout"
"""The report that is what the command writes to stdout."""
_PART = 1024 * 1024


def main(arguments: Sequence[str]) -> NoReturn:
    """``REPORT LIMIT``: the request's arguments are the command, of whose report so many bytes are told."""
    confine.not_dumpable()
    with os.fdopen(REQUEST_FD, encoding="utf-8") as file:
        request = Request.from_json(file.read())
    os.set_inheritable(REPORT_FD, False)
    _run(request.arguments, arguments[0], int(arguments[1]), channel.writer(REPORT_FD, bytes.fromhex(request.key)))
    os._exit(0)


def _run(command: Sequence[str], report: str, limit: int, tell: channel.Write) -> None:
    is_stdout = report == STDOUT
    reason = "" if is_stdout else _remove(report)
    if reason:
        return tell({"kind": "not_started", "reason": reason})
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if is_stdout else None)
    except (OSError, ValueError) as error:
        return tell({"kind": "not_started", "reason": f"{command[0]!r} can't be started: {error}"})
    said = _forward(process, limit) if is_stdout else None
    tell({"kind": "command", "code": process.wait()})
    data, reason = (said, "") if said is not None else _read(report, limit)
    if data is None or len(data) > limit:
        tell({"kind": "no_report", "reason": reason or f"it is longer than {limit} bytes"})
    else:
        for start in range(0, max(len(data), 1), _PART):
            tell({"kind": "report", "data": base64.b64encode(data[start : start + _PART]).decode()})
    tell({"kind": "end"})


def _remove(path: str) -> str:
    """Sees to it that there is no report of an earlier run; returns why that is not possible."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"there is a report in {path!r} already, and it can't be removed: {error.strerror}"
    return ""


def _forward(process: subprocess.Popen[bytes], limit: int) -> bytes:
    """Passes stdout on as it comes, until the command has ended; returns all of it, or a byte more than the limit."""
    said = bytearray()
    assert process.stdout is not None
    fd, pidfd = process.stdout.fileno(), os.pidfd_open(process.pid)
    os.set_blocking(fd, False)
    poll = select.poll()
    for each in (fd, pidfd):
        poll.register(each, select.POLLIN)
    while True:
        has_ended = pidfd in [ready for ready, _ in poll.poll()]  # others that it started may hold the other end
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            if has_ended:
                break
            continue
        if not data:
            break
        said += data[: limit + 1 - len(said)]
        _write(data)
    os.close(pidfd)
    return bytes(said)


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(1, data) :]
        except OSError:
            return


def _read(path: str, limit: int) -> tuple[bytes | None, str]:
    """What is in a file, or a byte more than the limit; or why it can't be known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None, f"{path!r} is not a file"
            return file.read(limit + 1), ""
    except OSError as error:
        return None, f"{path!r}: {error.strerror}"
