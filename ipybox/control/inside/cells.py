"""The interpreter of a stateful session, as the agent holds it: a child that keeps variables. Floor: control.

It is forked, so it begins with what the agent has imported; it can be interrupted, and replaced when it is gone. What
it says is as untrusted as the code that it runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from resource import struct_rusage
from typing import Any

from ipybox.control.inside import families, python_process, results
from ipybox.control.inside.executions import INTERRUPT_GRACE, MESSAGE, Ground, Process, Say, cold_command, used
from ipybox.control.inside.outputs import CHUNK, Line, Output
from ipybox.control.inside.places import FIRST, SECOND
from ipybox.process import warden
from ipybox.session.frames import Decoder, FrameError, frame, value
from ipybox.session.inside_loop import Timer

_LATE = 1024 * 1024
"""Bytes that are kept of what is written while no cell runs; the next one tells them."""
_SHOWN = ("display", "result", "error", "clear", "truncated")
_COUNTED = ("cpu_ms", "read_bytes", "write_bytes")
LOST = "its interpreter had ended before, so variables of earlier cells are lost"
"""What a cell's stderr says first where that is so."""


@dataclass
class _Turn:
    say: Say
    timer: Timer
    below: frozenset[int]
    stopped: str = ""


class Cells:
    """Runs cells in one process, as long as that lives.

    Args:
        ground: Where.
        env: Environment of the interpreter.

    Raises:
        OSError: No process can be made.
    """

    def __init__(self, ground: Ground, env: Mapping[str, str]) -> None:
        self._ground = ground
        self._turn: _Turn | None = None
        self._used: dict[str, float] = dict.fromkeys(_COUNTED, 0.0)
        self.is_over = False
        self._was_used = self._has_told = False
        control, its_control = results.pair()
        shown, its_shown = results.pair()

        is_cold = python_process.has_other_versions(ground.imported)
        command = cold_command(ground, "interpreter", str(ground.limit)) if is_cold else []

        def become() -> None:
            if is_cold:
                python_process.place({FIRST: its_control, SECOND: its_shown})
                python_process.become_program(command, env)
            from ipybox.control.inside import interpreter  # IPython, which the host has no use for

            for fd in (its_control, its_shown):
                os.set_inheritable(fd, False)
            main = python_process.become_python(env, ground.python, "ipybox-python")
            interpreter.serve(main, its_control, its_shown, ground.limit)

        try:
            self._process = Process(ground, become, (its_control, its_shown), self._ended)
        except OSError:
            for fd in (control, shown):
                os.close(fd)
            raise
        for fd in (control, shown):
            os.set_blocking(fd, False)
        self._control, self._shown = control, shown
        self._order_fd = os.dup(control)
        self._orders = Line(ground.loop, self._order_fd, lambda: None)  # its end is seen in another way
        self._heard, self._seen = Decoder(1 << 20, 0), Decoder(1 << 16, ground.body)
        ground.loop.on_readable(control, self._hear)
        ground.loop.on_readable(shown, self._on_shown)
        self._outputs = [
            Output(ground.loop, ground.line, fd, None, _LATE, lambda: None) for fd in self._process.outputs
        ]

    @property
    def is_busy(self) -> bool:
        """Whether a cell runs."""
        return self._turn is not None

    @property
    def has_lost(self) -> bool:
        """Whether variables are gone with it that nobody has been told of."""
        return self.is_over and self._was_used and not self._has_told

    def run(self, head: Mapping[str, Any], code: bytes, say: Say) -> None:
        """Runs a cell; one at a time."""
        assert self._turn is None
        self._was_used = True
        timer = self._ground.loop.after(value(head, "timeout", float), lambda: self._stop("timeout"))
        below = frozenset(warden.descendants(self._process.pid, warden.parents()))
        self._turn = _Turn(say, timer, below)
        say({"is": "began", "pid": self._process.pid}, b"")
        for name, output in zip(("stdout", "stderr"), self._outputs, strict=True):
            cut = partial(say, {"is": "truncated", "stream": name}, b"")
            output.turn_to(partial(say, {"is": name}), self._ground.limit, cut)
        self._orders.put(frame({"env": head["env"]}, code))

    def interrupt(self) -> None:
        """What Ctrl-C does, and a kill if that does not help."""
        self._stop("interrupt")

    def cancel(self) -> None:
        """The same."""
        self._stop("cancel")

    def _stop(self, why: str) -> None:
        if self._turn is None or self._turn.stopped:
            return
        self._turn.stopped = why
        self._turn.timer.cancel()
        self._turn.timer = self._ground.loop.after(INTERRUPT_GRACE / 2, self._insist)
        self._process.signal(signal.SIGINT)

    def _insist(self) -> None:
        if self._turn is not None:
            self._turn.timer = self._ground.loop.after(INTERRUPT_GRACE / 2, self._process.kill)
            self._process.signal(signal.SIGINT)

    # ---- what it says ------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        data = _read(self._control)
        if data is None:
            return
        try:
            for head, _ in self._heard.feed(data):
                self._take(head)
        except FrameError:
            data = b""
        if not data:  # it is about to end, or a cell has closed what was not its own
            self._close()
            self._process.kill()

    def _take(self, head: dict[str, Any]) -> None:
        while self._see():
            pass
        usage = value(head, "usage", dict)
        for name in _COUNTED:
            value(usage, name, float)
        total = dict(usage)
        usage |= {name: max(0.0, value(usage, name, float) - self._used[name]) for name in _COUNTED}
        self._used = {name: value(total, name, float) for name in _COUNTED}
        named: dict[str, Any] = {name: value(head, name, str)[:MESSAGE] for name in ("name", "value") if name in head}
        self._answer({"code": value(head, "code", int), "usage": usage, "state_lost": False, **named})

    def _on_shown(self) -> None:
        self._see()

    def _see(self) -> bool:
        data = _read(self._shown)
        if not data:
            if data is not None:
                self._close()
            return False
        try:
            for head, body in self._seen.feed(data):
                self._show(head, body)
        except FrameError:
            self._close()
            self._process.kill()
            return False
        return True

    def _show(self, head: dict[str, Any], body: bytes) -> None:
        kind = value(head, "is", str)
        if kind not in _SHOWN:
            raise FrameError(f"{kind!r} can't be shown")
        if self._turn is not None:
            for output in self._outputs:
                output.drain()
            self._turn.say({"is": kind, **({"stream": "display"} if kind == "truncated" else {})}, body)
        if self._ground.line.is_full:
            self._ground.line.when_room(self._acknowledge)
        else:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._shown >= 0:
            try:
                os.write(self._shown, b"+")
            except OSError:
                pass  # it is gone, or does not read what it should; then it has itself to blame

    # ---- its end -----------------------------------------------------------------------------------------------

    def _ended(self, code: int, usage: struct_rusage) -> None:
        self.is_over = True
        while self._see():
            pass
        self._close()
        total = used(usage)
        total |= {name: max(0.0, total[name] - self._used[name]) for name in _COUNTED}
        if self._turn is not None:
            self._has_told = True
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            note = f"the interpreter ended with {how}; variables are lost, the next cell gets a new one\n"
            self._answer({"code": code, "usage": total, "state_lost": True, "died": True}, note)
        for output in self._outputs:
            output.close()

    def _answer(self, head: dict[str, Any], note: str = "") -> None:
        if self._turn is None:
            return
        turn, self._turn = self._turn, None
        turn.timer.cancel()
        if turn.stopped and not self.is_over:
            families.end_below(self._process.pid, spared=turn.below)  # what it has started does not go on without it
        for output in self._outputs:
            output.drain()
            output.turn_to(None, _LATE, lambda: None)
        if note:
            turn.say({"is": "stderr"}, note.encode())
        turn.say({"is": "end", "stopped": turn.stopped, "has_value": False, **head}, b"")

    def _close(self) -> None:
        if self._control >= 0:
            for fd in (self._control, self._shown, self._order_fd):
                self._ground.loop.forget(fd)
                os.close(fd)
            self._control = self._shown = -1


def _read(fd: int) -> bytes | None:
    """What there is; None when there is nothing now, empty when there will never be anything."""
    if fd < 0:
        return b""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
