"""Stdout and stderr inside a kernel, without ipykernel's losses. Runs inside the kernel. Floor: kernel_mgr.

ipykernel's ``OutStream`` keeps a buffer per stream, decodes what arrives on descriptors 1 and 2 in pieces of 1,000
bytes (which breaks characters), hands the kernel's log to programs that ask for ``sys.stdout.fileno()``, and leaves
what a child process wrote last in a pipe when the cell ends. Here both streams share one log in the order in which
things were written, whichever way they came; the end of a cell waits for what is still in the pipes; characters are
decoded across reads, and bytes that are no UTF-8 arrive as ``\\xNN`` escapes.
"""

from __future__ import annotations

import codecs
import concurrent.futures
import contextvars
import ctypes
import fcntl
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NoReturn

from ipykernel.iostream import OutStream

from ipybox.kernel_mgr.flight_recorder import STREAMS, FlightRecorder
from ipybox.kernel_mgr.wire import METADATA_KEY

# A print is on its way at once when nothing was sent for this long, and after this long otherwise.
_FLUSH_INTERVAL = 0.02
# Larger text travels in several messages, so that kernel, gateway and client work on it at the same time.
_MESSAGE_CHARACTERS = 512 * 1024
# Pending text that makes a flush urgent.
_URGENT_CHARACTERS = 1024 * 1024
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
# What one look into a pipe takes out of it at most; a writer that never pauses must not hold up a cell's end.
_PULL_BYTES = 8 * 1024 * 1024


_SMALL_CHARACTERS = 4096
_NO_MEMORY = 70
"""Exit code of a kernel that has no memory left to send its output: EX_SOFTWARE of sysexits.h."""
_leave = os._exit


class _Capture:
    """The read end of a pipe that took the place of descriptor 1 or 2."""

    def __init__(self, stream: KernelStream, fd: int) -> None:
        self.stream = stream
        self.fd = fd
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")


class OutputLog:
    """What was written and not yet sent, of both streams, in order."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.is_fork = False
        self.is_sending = False
        self.segments: list[tuple[KernelStream, dict[str, Any], list[str]]] = []
        self.pending = 0
        self._captures: list[_Capture] = []
        self._poll = select.poll()
        self.recorder: FlightRecorder | None = None
        self._watcher: threading.Thread | None = None
        os.register_at_fork(before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self._forget)

    def adopt(self) -> None:
        """This process is the kernel, though it may be a fork of one that was made before it."""
        self.is_fork = False

    def append(self, stream: KernelStream, parent: dict[str, Any], text: str) -> None:
        """Adds text; the lock is held."""
        if self.recorder is not None:
            self.recorder.note(stream.index, text)
        if self.segments:
            last_stream, last_parent, texts = self.segments[-1]
            if last_stream is stream and (last_parent is parent or last_parent == parent):
                texts.append(text)
                self.pending += len(text)
                return
        self.segments.append((stream, parent, [text]))
        self.pending += len(text)

    def take(self) -> list[tuple[KernelStream, dict[str, Any], list[str]]]:
        """Takes everything out."""
        with self.lock:
            taken, self.segments = self.segments, []
            self.pending = 0
            self.is_sending = bool(taken)
        return taken

    def capture(self, stream: KernelStream, fd: int) -> None:
        """From now on reads what arrives on a pipe into the log, as text of ``stream``."""
        os.set_blocking(fd, False)
        self._captures.append(_Capture(stream, fd))
        self._poll.register(fd, select.POLLIN)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="ipybox-stdio", daemon=True)
            # Debuggers and the thread hooks of users have no business here.
            self._watcher.pydev_do_not_trace = True  # type: ignore[attr-defined]
            self._watcher.start()

    def pull(self) -> None:
        """Moves what is in the pipes into the log; the lock is held. Costs one system call when they are empty."""
        if not self._captures or not self._poll.poll(0):
            return
        for capture in tuple(self._captures):
            self._read(capture)

    def finish_characters(self) -> None:
        """Delivers bytes that began a character which nobody finished; the lock is held."""
        for capture in self._captures:
            self._finish_character(capture)

    def _finish_character(self, capture: _Capture) -> None:
        rest = capture.decoder.decode(b"", True)
        capture.decoder.reset()
        if rest:
            self.append(capture.stream, capture.stream.latest_parent, rest)

    def _read(self, capture: _Capture) -> None:
        taken = 0
        while taken < _PULL_BYTES:
            try:
                data = os.read(capture.fd, _PIPE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # user code closed both ends that it could find
                self._poll.unregister(capture.fd)
                self._captures.remove(capture)
                self._finish_character(capture)
                return
            taken += len(data)
            text = capture.decoder.decode(data)
            if text:
                self.append(capture.stream, capture.stream.latest_parent, text)

    def _watch(self) -> None:
        waiter = select.poll()
        for fd in [capture.fd for capture in self._captures]:
            waiter.register(fd, select.POLLIN)
        known = len(self._captures)
        if self._captures:
            # Made now, for this thread: user code may use up all descriptors later.
            _ = getattr(getattr(self._captures[0].stream, "pub_thread", None), "_event_pipe", None)
        while self._captures:
            if len(self._captures) != known:
                known = len(self._captures)
                waiter = select.poll()
                for capture in self._captures:
                    waiter.register(capture.fd, select.POLLIN)
            if not waiter.poll(500):
                continue
            with self.lock:
                self.pull()
                streams = {stream for stream, _, _ in self.segments}
            for stream in streams:
                try:
                    stream.flush_soon()
                except Exception:  # without descriptors or memory there is nothing to be done but to go on
                    continue

    def _forget(self) -> None:
        # A forked child has its own copy of what the kernel is about to send, and must not send it again.
        self.is_fork = True
        self.lock = threading.RLock()
        self.segments = []
        self.pending = 0


class _DirectSender:
    """Sends in the I/O thread itself, where queueing would let ``flush`` return before the message is out."""

    def __init__(self, thread: Any) -> None:
        self._thread = thread

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """What a session wants of a socket."""
        self._thread._really_send(*args, **kwargs)


class KernelStream(OutStream):
    """``sys.stdout`` or ``sys.stderr`` of a kernel."""

    flush_timeout = 300
    flush_interval = _FLUSH_INTERVAL
    log = OutputLog()
    _flush_pending: bool
    pipes: ClassVar[dict[str, tuple[int, int]]] = {}
    """Read and write end of a pipe per stream, when the gateway made them, to look into them when we are gone."""

    def __init__(self, session: Any, pub_thread: Any, name: str, *args: Any, **kwargs: Any) -> None:
        self.index = STREAMS.index(name)
        self._sent_characters = 0
        self._fork_buffer = ""
        self._direct = _DirectSender(pub_thread)
        self._sent_at = 0.0
        self._flush_at_once = False
        kwargs["echo"] = None
        super().__init__(session, pub_thread, name, *args, **kwargs)

    @property
    def parent_header(self) -> dict[str, Any]:
        """The request whose output this is: that of the running task or thread, else the latest one."""
        try:
            return self._parent_header.get()  # type: ignore[no-any-return]
        except LookupError:
            header = getattr(threading.current_thread(), "ipybox_parent", None)
            return self._parent_header_global if header is None else header

    @parent_header.setter
    def parent_header(self, value: dict[str, Any]) -> None:
        self._parent_header.set(value)
        self._parent_header_global = value

    @property
    def latest_parent(self) -> dict[str, Any]:
        """The latest request: whose output it is that comes through a descriptor, whichever thread finds it there."""
        parent: dict[str, Any] = self._parent_header_global
        return parent

    def fileno(self) -> int:
        """Descriptor 1 or 2 itself, so that what a program writes there is output and not a log line."""
        fd = getattr(self, "_original_stdstream_fd", None)
        return fd if fd is not None else int(super().fileno())

    def write(self, string: str) -> int:
        """Adds text to the log and sees to it that it is sent soon."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        log = self.log
        if log.is_fork:
            self._write_in_fork(string)
            return len(string)
        parent = self.parent_header
        with log.lock:
            if string != "\n":  # the second write of a print
                log.pull()  # first what a child process wrote before
            log.append(self, parent, string)
            urgent = log.pending > _URGENT_CHARACTERS
        if not self._flush_at_once and (
            urgent or (string.endswith("\n") and time.monotonic() - self._sent_at > _FLUSH_INTERVAL)
        ):
            self._flush_at_once = True
            self.pub_thread.schedule(self._flush)
        elif not self._flush_pending:
            self._schedule_flush()
        return len(string)

    def flush_soon(self) -> None:
        """Sends what is in the log within the flush interval; may be called in any thread."""
        if time.monotonic() - self._sent_at > _FLUSH_INTERVAL or self.log.pending > _URGENT_CHARACTERS:
            if not self._flush_at_once:
                self._flush_at_once = True
                self.pub_thread.schedule(self._flush)
        else:
            self._schedule_flush()

    def flush(self) -> None:
        """Sends all that was written so far, also by child processes, and returns when it is on its way."""
        if self.log.is_fork:
            self._flush_fork()
            return
        with self.log.lock:
            self.log.pull()
            if not self.log.segments and not self.log.is_sending:
                return  # the hand-over to the I/O thread and back costs more than all the rest of a short cell
        self.flush_queue()

    def flush_queue(self) -> None:
        """Waits until everything is sent that anybody has handed to the I/O thread so far."""
        super().flush()

    def close(self) -> None:
        """Flushes. The stream itself stays open: the kernel needs it after code that closed it."""
        self.flush()

    @property
    def closed(self) -> bool:
        """Never: see :meth:`close`."""
        return False

    def _schedule_flush(self) -> None:
        if self._flush_pending:
            return
        self._flush_pending = True
        thread = self.pub_thread
        # When the time is up it takes its place behind what other senders have queued by then.
        thread.schedule(lambda: self._io_loop.call_later(self.flush_interval, thread.schedule, self._flush))

    def _flush(self) -> None:
        """Sends the log; runs in the I/O thread, as one of its queued events."""
        self._flush_pending = False
        self._flush_at_once = False
        self._sent_at = time.monotonic()
        try:
            for stream, parent, texts in self.log.take():
                while texts:
                    for piece in _pieces("".join(_some(texts))):
                        stream._send(parent, piece)
        except MemoryError:
            _die_honestly()
        finally:
            self.log.is_sending = False

    def _send(self, parent: dict[str, Any], text: str) -> None:
        """Sends text in one message, or in several smaller ones where memory is short."""
        self.session.pid = os.getpid()
        sent = self._sent_characters + len(text)
        try:
            message = self.session.msg(
                "stream",
                {"name": self.name, "text": text},
                parent=parent,
                metadata={METADATA_KEY: {"stream": self.name, "sent": sent}},
            )
            self.session.send(self._direct, message, ident=self.topic)
        except MemoryError:
            if len(text) <= _SMALL_CHARACTERS:
                raise
            half = len(text) // 2
            self._send(parent, text[:half])
            self._send(parent, text[half:])
            return
        self._sent_characters = sent

    def _write_in_fork(self, string: str) -> None:
        # Whole lines, so that those of several children don't run into each other.
        self._fork_buffer += string
        if "\n" in string or len(self._fork_buffer) > _URGENT_CHARACTERS:
            self._flush_fork()

    def _flush_fork(self) -> None:
        # The kernel reads descriptors 1 and 2, so that is the way; a message queue does not survive a fork.
        text, self._fork_buffer = self._fork_buffer, ""
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        try:
            while data:
                data = data[os.write(self.fileno(), data) :]
        except OSError:
            pass

    def _setup_stream_redirects(self, name: str) -> None:
        read, write = self.pipes.get(name) or os.pipe()
        try:
            fcntl.fcntl(write, getattr(fcntl, "F_SETPIPE_SZ", _F_SETPIPE_SZ), _PIPE_BYTES)
        except OSError:
            pass  # macOS, or the user's pipe budget is used up: the default size does
        number = self._original_stdstream_fd = getattr(sys, name).fileno()
        self._original_stdstream_copy = os.dup(number)
        os.dup2(write, number)
        os.close(write)
        self._fid = read
        self.log.capture(self, read)

    def _watch_pipe_fd(self) -> None:
        raise AssertionError("the log watches all pipes")


_SURROGATE_PAIR = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


def _pieces(text: str) -> Iterator[str]:
    """Text in parts for one message each. Halves of a surrogate pair must not meet: JSON would join them."""
    parts = _SURROGATE_PAIR.split(text) if not text.isascii() else [text]
    for part in parts:
        for start in range(0, len(part), _MESSAGE_CHARACTERS):
            yield part[start : start + _MESSAGE_CHARACTERS]


def _some(texts: list[str]) -> list[str]:
    """Takes the first texts out of a list, about as many as one message holds."""
    count = size = 0
    while count < len(texts) and size < _MESSAGE_CHARACTERS:
        size += len(texts[count])
        count += 1
    taken = texts[:count]
    del texts[:count]
    return taken


def _die_honestly() -> NoReturn:
    """Output that can't be sent must not be missing from a result that looks complete."""
    _leave(_NO_MEMORY)


def finish_cell(*streams: Any) -> None:
    """Sends all output of a cell that ends now, whatever user code did to ``sys.stdout``."""
    for real in (sys.__stdout__, sys.__stderr__):
        try:
            if real is not None:
                real.flush()
        except (OSError, ValueError):
            pass  # user code closed it
    _flush_c_streams()
    log = KernelStream.log
    with log.lock:
        log.pull()
        log.finish_characters()
    for stream in streams:
        stream.flush()


def _c_flushers() -> list[Callable[[], object]]:
    """Flushes of the C library's stdout and stderr. Flushing all its streams could wait for one that reads."""
    library = ctypes.CDLL(None)
    prefix = "__" if sys.platform == "darwin" else ""
    suffix = "p" if sys.platform == "darwin" else ""
    try:
        files = [ctypes.c_void_p.in_dll(library, f"{prefix}{name}{suffix}") for name in STREAMS]
    except ValueError:
        return []
    return [partial(library.fflush, file) for file in files]


_C_FLUSHERS = _c_flushers()


def _flush_c_streams() -> None:
    for flush in _C_FLUSHERS:
        flush()


def keep_last_words() -> None:
    """Lets ``os._exit``, which skips everything else, keep what was printed and is on its way inside the process."""
    leave = os._exit

    def leave_with_words(status: int) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, KernelStream) and stream.log.is_fork:
                stream.flush()
        log = KernelStream.log
        if not log.is_fork and log.lock.acquire(timeout=1):
            log.pull()  # what the watching thread took out of a pipe, or would, is noted before the end
        leave(status)

    os._exit = leave_with_words


def follow_threads() -> None:
    """Makes output of threads and pools belong to the code that started or submitted them."""
    start = threading.Thread.start

    def start_with_parent(self: threading.Thread) -> None:
        stream = sys.stdout
        if isinstance(stream, KernelStream):
            self.ipybox_parent = stream.parent_header  # type: ignore[attr-defined]
        start(self)

    threading.Thread.start = start_with_parent  # type: ignore[method-assign]
    submit = concurrent.futures.ThreadPoolExecutor.submit

    def submit_with_context(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, contextvars.copy_context().run, fn, *args, **kwargs)

    concurrent.futures.ThreadPoolExecutor.submit = submit_with_context  # type: ignore[method-assign]
