"""The kernel that a gateway starts: ipykernel, with its leaks closed. Runs inside the kernel. Floor: kernel_mgr.

The one module of ours that overrides ipykernel. What it changes: output streams (see ``kernel_stdio``); no message
is dropped for a slow reader; per-execution environment, working directory and file name, as data in the request's
metadata; an interrupt can't hit the kernel between two requests; nothing is read from or written to the user's
IPython profile; the kernel dies with its gateway.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import zmq
from ipykernel import ipkernel, kernelapp
from ipykernel.compiler import XCachingCompiler
from ipykernel.iostream import IOPubThread
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from IPython.external.pickleshare import PickleShareDB
from jupyter_client.session import new_id
from tornado.ioloop import IOLoop
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

from ipybox.kernel_mgr.flight_recorder import FlightRecorder
from ipybox.kernel_mgr.inheritance import Inheritance
from ipybox.kernel_mgr.kernel_interrupts import Interrupts
from ipybox.kernel_mgr.kernel_stdio import KernelStream, finish_cell, follow_threads, keep_last_words
from ipybox.kernel_mgr.wire import METADATA_KEY

_LIBC = ctypes.CDLL(None, use_errno=True)
_CONNECT_PATIENCE = 10.0
_CONNECT_LOOK = 0.005
_TRIALS = 10
"""Python writes into a function's code when it is called, until it has been called that often."""


def pack(message: Any) -> bytes:
    """JSON as UTF-8, also of text with lone surrogates, which UTF-8 can't hold but JSON can escape."""
    try:
        return json.dumps(message, default=_json_default, ensure_ascii=False, allow_nan=False).encode()
    except (UnicodeEncodeError, ValueError):
        return json.dumps(_clean(message), default=_json_default, ensure_ascii=True).encode()


def _json_default(value: Any) -> Any:
    from jupyter_client.jsonutil import json_default

    return json_default(value)


def _clean(value: Any) -> Any:
    from jupyter_client.jsonutil import json_clean

    return json_clean(value)


class Compiler(XCachingCompiler):
    """Names a cell after the file that it came from, when it came from one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.file_name: str | None = None
        self._file_names: set[str] = set()

    def get_code_name(self, raw_code: str, code: str, number: int) -> str:
        """The name under which Python knows the code."""
        if self.file_name is None:
            return str(super().get_code_name(raw_code, code, number))
        self._file_names.add(self.file_name)
        return self.file_name

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        """How tracebacks call the code."""
        if name in self._file_names:
            return "File", name
        named: tuple[str, str] | None = super().format_code_name(name)
        return named


class Shell(ZMQInteractiveShell):
    """IPython's shell, which runs ``!command`` with plain pipes.

    ipykernel gives commands a terminal, which turns every line end into two characters, joins stdout and stderr, and
    makes programs draw progress bars.
    """

    system = InteractiveShell.system_raw
    _is_early = False

    @classmethod
    def make_early(cls) -> None:
        """Makes the one shell of this process before there is a kernel for it, in a Python that is to be forked."""
        cls._is_early = True
        try:
            with tempfile.TemporaryDirectory() as folder:  # older versions of IPython make use of it at once
                profile = Profile(location=os.path.join(folder, "profile_default"))
                shell = cls.instance(
                    config=configuration(), profile_dir=profile, compiler_class=Compiler, user_module=None, user_ns=None
                )
            shell.extension_manager.load_extension("storemagic")  # as every kernel does
            for _ in range(_TRIALS):
                shell.run_cell("None", store_history=False, silent=True)
        finally:
            cls._is_early = False

    def adopt(self, kernel: Kernel) -> None:
        """The kernel is there: does what its process has to be there for."""
        self.parent = self.kernel = kernel
        self.profile_dir = kernel.profile_dir
        self.ipython_dir = os.path.dirname(kernel.profile_dir.location)
        if "db" in vars(self):
            folder = os.path.join(kernel.profile_dir.location, "db")
            self.db = PickleShareDB(folder)  # type: ignore[no-untyped-call]
        self.init_environment()
        self.init_virtualenv()
        # Before the sockets are closed, which may take as long as somebody has not read everything.
        atexit.unregister(self.atexit_operations)
        atexit.register(self.atexit_operations)
        self.starting_dir = os.getcwd()
        self.history_manager.dir_hist[:] = [Path.cwd()]

    def init_ipython_dir(self, ipython_dir: Any) -> None:
        """An early shell gets it with its kernel."""
        if not self._is_early:
            super().init_ipython_dir(ipython_dir)

    def init_virtualenv(self) -> None:
        """An early shell must not look for packages where a kernel of before may have put some."""
        if not self._is_early:
            super().init_virtualenv()

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Runs one statement of a cell."""
        with self._interruptible():
            return bool(await super().run_code(code_obj, result, async_=async_))

    def _interruptible(self) -> AbstractContextManager[None]:
        kernel: Kernel | None = self.kernel  # an early shell has none
        return nullcontext() if kernel is None else kernel.interrupts.user_code()

    def _tee(self, channel: str) -> AbstractContextManager[None]:
        """IPython would keep a second copy of everything that is ever printed, for the ``%notebook`` magic."""
        return nullcontext()

    def init_events(self) -> None:
        """Lets interrupts reach callbacks as well, such as the one that draws figures at the end of a cell."""
        super().init_events()
        trigger = self.events.trigger

        def interruptible(*args: Any, **kwargs: Any) -> None:
            with self._interruptible():
                trigger(*args, **kwargs)

        self.events.trigger = interruptible


class Profile(ProfileDir):
    """IPython's directory for its own files, without the folders in it that a kernel puts nothing into."""

    def _mkdir(self, path: str, mode: int | None = None) -> bool:
        return False


class _SysWithoutModules:
    """``sys`` for a constructor that makes a list of all modules for a debugger, which there is none of.

    In a fork that list costs a millisecond, and a megabyte of memory that it would share otherwise.
    """

    modules: ClassVar[dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class Kernel(IPythonKernel):
    """IPython's kernel with per-execution options and an end that loses nothing."""

    implementation = "ipybox"
    compiler_class = Compiler
    shell_class = Shell

    def __init__(self, **kwargs: Any) -> None:
        self.interrupts = Interrupts()
        ipkernel.sys = _SysWithoutModules()
        try:
            super().__init__(**kwargs)
        finally:
            ipkernel.sys = sys
        if self.shell.kernel is not self:
            self.shell.adopt(self)

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        """A request arrived. This comes before the kernel says that it is busy, so no interrupt is missed."""
        if channel == "shell" and parent.get("header", {}).get("msg_type") == "execute_request":
            self.interrupts.expect()
        super().set_parent(ident, parent, channel)

    def pre_handler_hook(self) -> None:
        """Before a request is handled."""
        self.interrupts.install()

    def post_handler_hook(self) -> None:
        """After a request was handled."""
        self.interrupts.finish()

    @contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        with self.interrupts.awaiting(future):
            yield

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """Runs one request."""
        options = (cell_meta or {}).get(METADATA_KEY) or {}
        try:
            with self._options(options):
                reply: dict[str, Any] = await super().do_execute(
                    code,
                    silent,
                    store_history,
                    user_expressions,
                    allow_stdin,
                    cell_meta=cell_meta,
                    cell_id=cell_id,
                )
        except KeyboardInterrupt:
            # An interrupt just before or after the user's code; without an answer the client would wait for one.
            reply = _failure("KeyboardInterrupt", "")
        except Exception as error:  # options that can't be had, such as a working directory that is not there
            reply = _failure(type(error).__name__, str(error))
        finally:
            self._end_of_cell()
        return reply

    def _input_request(self, *args: Any, **kwargs: Any) -> str:
        """Asks the client, after everything that was shown before.

        ZMQ drops a message to a client whose connection for questions is not there yet, unless told to complain; a
        question that nobody hears would wait for ever.
        """
        self._stdout.flush_queue()
        self.stdin_socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        deadline = time.monotonic() + _CONNECT_PATIENCE
        while True:
            try:
                answer: str = super()._input_request(*args, **kwargs)
                return answer
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH or time.monotonic() > deadline:
                    raise
            time.sleep(_CONNECT_LOOK)  # the socket says who is connected only when it is used

    def _end_of_cell(self) -> None:
        self.interrupts.finish()
        self.interrupts.install()
        kept = getattr(self.shell.history_manager, "outputs", None)
        if kept is not None:
            kept.clear()  # likewise a copy of everything that is ever displayed
        for name, ours in (("stdout", self._stdout), ("stderr", self._stderr)):
            try:
                getattr(sys, name).flush()
            except Exception:  # user code put something there that can't do that; the kernel needs it
                setattr(sys, name, ours)
        finish_cell(self._stdout, self._stderr)

    @contextmanager
    def _options(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Environment, working directory, file name and arguments of one execution."""
        env: dict[str, str] = options.get("env") or {}
        cwd: str | None = options.get("cwd")
        argv: list[str] | None = options.get("argv")
        compiler = self.shell.compile
        before = {name: os.environ.get(name) for name in env}
        # The descriptor finds its way back also when the directory was renamed meanwhile.
        back = os.open(".", os.O_RDONLY | os.O_CLOEXEC) if cwd is not None else None
        argv_before = sys.argv
        file_name: str | None = options.get("file_name")
        script = file_name if file_name is not None and os.path.isfile(file_name) else None
        try:
            if cwd is not None:
                os.chdir(cwd)
            os.environ.update(env)
            compiler.file_name = file_name
            if script is not None:  # as Python does for the file that it runs
                sys.path.insert(0, os.path.dirname(script))
                self.shell.user_ns["__file__"] = script
            if argv is not None:
                sys.argv = list(argv)
            yield
        finally:
            compiler.file_name = None
            if script is not None:
                self.shell.user_ns.pop("__file__", None)
                if os.path.dirname(script) in sys.path:
                    sys.path.remove(os.path.dirname(script))
            sys.argv = argv_before
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            if back is not None:
                os.fchdir(back)
                os.close(back)


def _failure(name: str, value: str) -> dict[str, Any]:
    return {
        "status": "error",
        "ename": name,
        "evalue": value,
        "traceback": [],
        "execution_count": 0,
        "user_expressions": {},
        "payload": [],
    }


class OutputThread(IOPubThread):
    """Sends output; forked children hand it theirs through a socket in the private directory.

    ipykernel listens on a TCP port of the machine for that, which others can connect to.
    """

    address: ClassVar[str | None] = None

    def _setup_pipe_in(self) -> None:
        if self.address is None:
            super()._setup_pipe_in()
            return
        self._pipe_uuid = os.urandom(16)
        pipe_in = self.socket.context.socket(zmq.PULL)
        pipe_in.linger = 0
        pipe_in.bind(self.address)
        self._pipe_in = ZMQStream(pipe_in, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        if self.address is None:
            context, pipe_out = super()._setup_pipe_out()
            return context, pipe_out
        context = zmq.Context()
        pipe_out = context.socket(zmq.PUSH)
        pipe_out.linger = 3000
        pipe_out.connect(self.address)
        return context, pipe_out


def _serve(zmq_socket: Any, listener: int) -> None:
    zmq_socket.setsockopt(zmq.USE_FD, listener)
    zmq_socket.bind("ipc:///ipybox")  # the name means nothing: the descriptor is bound already


class HeartbeatThread(kernelapp.Heartbeat):
    """Answers on a socket that the gateway made."""

    listener: ClassVar[int] = -1

    def _bind_socket(self) -> None:
        _serve(self.socket, self.listener)


class KernelApp(IPKernelApp):
    """Starts a :class:`Kernel`."""

    name = "ipybox-kernel"
    kernel_class = Kernel
    outstream_class = "ipybox.kernel_mgr.kernel_stdio.KernelStream"

    inherited: Inheritance | None = None
    early_profile: Profile | None = None
    _has_pdb = False
    _has_logger = False

    def become(self) -> None:
        """This process is the kernel's, though it may be the fork of one in which this was made."""
        self.session.session = new_id()
        self.session.pid = os.getpid()
        KernelStream.log.adopt()

    def init_crash_handler(self) -> None:
        """A traceback in the log is all that is wanted of a kernel that fails."""

    def init_pdb(self) -> None:
        """Once for all forks."""
        if not self._has_pdb:
            super().init_pdb()
            self._has_pdb = True

    def configure_tornado_logger(self) -> None:
        """Once for all forks."""
        if not self._has_logger:
            super().configure_tornado_logger()
            self._has_logger = True

    def init_profile_dir(self) -> None:
        """An empty one, which nobody has configured anything in."""
        profile = self.profile_dir = self.early_profile or Profile()
        profile.location = os.path.join(self.ipython_dir, "profile_default")

    def init_config_files(self) -> None:
        """There are none: IPython would look for some in the working directory as well."""

    def init_code(self) -> None:
        """Runs no startup files, which could be the system's, but the one that Python itself would run."""
        if os.environ.get("PYTHONSTARTUP"):
            self._exec_file(os.environ["PYTHONSTARTUP"])
        self.shell.user_ns_hidden.update(self.shell.user_ns)

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """A kernel is the same on every machine."""

    def update_config(self, config: Config) -> None:
        """Does nothing for what is said already, which otherwise takes a look at every setting there is."""
        if config != self.config:
            super().update_config(config)

    def parse_command_line(self, argv: Any = None) -> None:
        """Reads no arguments when everything that a kernel has to know is inherited."""
        if self.inherited is None:
            super().parse_command_line(argv)

    def init_connection_file(self) -> None:
        """Takes the connection info from the gateway's descriptor, if there is one."""
        if self.inherited is None:
            super().init_connection_file()
        else:
            self.load_connection_info(self.inherited.connection_info())

    def write_connection_file(self, **kwargs: Any) -> None:
        """Writes nothing when there is no file."""
        if self.inherited is None:
            super().write_connection_file(**kwargs)

    def _bind_socket(self, s: Any, port: int) -> int:
        """Serves on the socket that the gateway made for this channel."""
        if self.inherited is None:
            return int(super()._bind_socket(s, port))
        ports = {getattr(self, f"{channel}_port"): fd for channel, fd in self.inherited.listeners.items()}
        _serve(s, ports[port])
        return port

    def init_control(self, context: zmq.Context[Any]) -> None:
        """The control channel, without the sockets of a debugger that there is none of."""
        self.control_socket = context.socket(zmq.ROUTER)
        self.control_socket.linger = 1000
        port: int = self.control_port
        self.control_port: int = self._bind_socket(self.control_socket, port)
        self.control_socket.router_handover = 1
        self.debugpy_socket = context.socket(zmq.STREAM)
        self.debug_shell_socket = context.socket(zmq.DEALER)
        self.control_thread = kernelapp.ControlThread(daemon=True)
        self.shell_channel_thread = kernelapp.ShellChannelThread(context, daemon=True)

    def init_heartbeat(self) -> None:
        """The heartbeat's socket binds in a thread of its own."""
        if self.inherited is not None:
            HeartbeatThread.listener = self.inherited.listeners["hb"]
            kernelapp.Heartbeat = HeartbeatThread
        super().init_heartbeat()

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Output waits in memory for a slow reader; by default ZMQ drops it after 1,000 messages."""
        context.setsockopt(zmq.SNDHWM, 0)
        OutputThread.address = self.inherited.forks if self.inherited is not None else None
        kernelapp.IOPubThread = OutputThread
        super().init_iopub(context)

    def start(self) -> None:
        """Runs until it is told to end; an interrupt that slips through must not end it."""
        while True:
            try:
                super().start()
                return
            except KeyboardInterrupt:
                continue

    def init_io(self) -> None:
        """Redirects output, into pipes and memory that outlive a crash when the gateway gave us some."""
        inherited = self.inherited
        if inherited is not None:
            KernelStream.pipes = {"stdout": inherited.stdout, "stderr": inherited.stderr}
            KernelStream.log.recorder = FlightRecorder(inherited.recorder)
            os.close(inherited.recorder)
        if inherited is not None and inherited.forks is None:
            _do_without_unix_sockets()
        super().init_io()
        faulthandler.enable(file=2)
        follow_threads()
        keep_last_words()

    def init_poller(self) -> None:
        """Dies with the gateway at once; ipykernel's poller would look once a second, and only for pid 1."""
        if sys.platform.startswith("linux"):
            _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            expected = os.environ.pop("JPY_PARENT_PID", None)
            if expected is not None and os.getppid() != int(expected):
                os._exit(1)
        else:
            super().init_poller()


def _do_without_unix_sockets() -> None:
    """Lets ``multiprocessing`` use the loopback where a sandbox has no Unix sockets.

    Its fork server can't; that is the default way to start processes from Python 3.14 on, so the one before is.
    """
    try:
        socket.socket(socket.AF_UNIX).close()
        return
    except PermissionError:
        pass
    multiprocessing.connection.default_family = "AF_INET"  # type: ignore[attr-defined]
    if multiprocessing.get_start_method(allow_none=False) == "forkserver":
        multiprocessing.set_start_method("fork", force=True)


def configuration() -> Config:
    """Settings of ipykernel and IPython that every kernel has."""
    config = Config()
    config.IPKernelApp.quiet = True
    config.IPKernelApp.log_level = "ERROR"
    config.Session.packer = "ipybox.kernel_mgr.kernel_app.pack"
    config.InteractiveShell.colors = "nocolor"
    config.HistoryManager.hist_file = ":memory:"
    return config


def prepare() -> None:
    """Makes what can be made of a kernel before its process is forked.

    What every kernel does first is done once as well, as far as it leaves nothing behind: Python and OpenSSL change
    their memory when they do something for the first time, and what is changed after a fork is not shared any more.
    """
    app = KernelApp.instance(config=configuration())
    app.early_profile = Profile()
    app.session.sign([b""])
    app.init_pdb()
    app.configure_tornado_logger()
    Shell.make_early()
    IOLoop(make_current=False).close(all_fds=True)


def main() -> None:
    """Entry point of the kernel process."""
    sys.argv[0] = "ipybox-kernel"
    app = KernelApp.instance(config=configuration())
    app.inherited = Inheritance.take()
    app.become()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which the gateway ignores, and its children with it
    arguments = sys.argv[1:]
    sys.argv = [""]  # code that reads its arguments must not find the kernel's
    # A debugger that nobody attaches to would take a third of the start and 7 MB.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    app.initialize(arguments)
    del sys.modules["debugpy"]
    # sys.exit() is an honest end of a program; IPython's advice to a person at its prompt is no output of it.
    warnings.filterwarnings("ignore", "To exit: use", UserWarning)
    app.start()


if __name__ == "__main__":
    # Run as a module this file is `__main__`; user code must get that name, and pickles must find our classes.
    from ipybox.kernel_mgr.kernel_app import main as _main

    _main()
