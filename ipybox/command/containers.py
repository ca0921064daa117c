"""Commands in containers of Docker and Podman. Floor: command."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from ipybox import arguments
from ipybox.command.binaries import find_binary
from ipybox.command.driver import CommandDriver, Field
from ipybox.command.enclosed_process import EnclosedProcess
from ipybox.command.engine import Engine, ask, bind_mount
from ipybox.command.environment import command_environment
from ipybox.command.policy import MEBIBYTE, ExecutionPolicy
from ipybox.command.result import NOT_EXECUTABLE, ExecResult
from ipybox.command.workspace import make_workspace, new_workspace, remove_workspace
from ipybox.errors import PolicyError, PolicyNotEnforcedError, ProgramStartError
from ipybox.sandbox.confine import mount_points
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import LOWEST

IMAGE = "alpine:3"
WORK = "/work"
"""Where a command works."""
PROCESSES, CPUS = 20, 0.5
"""Where the policy names no number."""

_NOBODY = 65534
_REPEATED = ("/bin/sh", "-c", 'for n in 1 2 3 4; do [ -n "$("$@" 2>/dev/null)" ] && exit; sleep 0.1; done', "sh")
"""Runs what follows until it says what it removed: a daemon may still be making the container whose client is gone."""
_ENGINE_FAILED = 125
_ENGINE_SAID = re.compile(r"^(docker: |podman: |Error: |unknown flag|(See|Run) '(docker|podman) run --help')", re.M)
_RUNTIME_SAID = re.compile(r"^Error: OCI runtime error: ", re.M)
_TAKEN = ("/", "/dev", "/proc", "/sys", "/tmp", WORK)
_CLIENTS = frozenset(
    (
        *("PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"),
        *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS", "DOCKER_TLS_VERIFY"),
        *("DOCKER_API_VERSION", "DOCKER_DEFAULT_PLATFORM", "CONTAINER_HOST", "CONTAINER_SSHKEY"),
        *("CONTAINER_CONNECTION", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF"),
        *("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE", "STORAGE_DRIVER", "STORAGE_OPTS"),
        *("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS"),
    )
)
"""Variables that tell a client where it finds its engine. None of them is a secret."""


class ContainerDriver(CommandDriver):
    """Runs each command in a new container: read-only, without capabilities and new privileges, as nobody.

    A command works in ``/work``, a private directory below the policy's ``base_dir`` while it runs; there is a ``/tmp``
    of 64 MiB besides. It sees its image, and what the policy names, at the paths that these have here. The image's own
    entry point is left out, and its ``PATH`` is kept. It is process 1 of its container.

    An engine that can't keep to a limit says so, and the command is refused. The image is fetched by the engine where
    it is not there, which counts as the command's time: fetch it before.

    Args:
        policy: What each command may use and touch.
        waive: Fields of the policy that need not be enforced.
        image: The image.
        binary: Where the client is; see :func:`~ipybox.command.binaries.find_binary`.
    """

    enforces: ClassVar[frozenset[Field]] = frozenset(
        ("cpu_time", "cpus", "memory", "network", "processes", "readable_paths", "writable_paths")
    )
    remedy: ClassVar[str]
    """How to install it."""

    def __init__(
        self,
        policy: ExecutionPolicy,
        *,
        waive: str | Iterable[str] = (),
        image: str = IMAGE,
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(policy, waive=waive)
        self.image = arguments.text("image", image)
        if image.startswith("-"):
            raise ValueError(f"image must be the name of an image, got {image!r}")
        if policy.memory < LOWEST["memory"]:
            few = f"{policy.memory} bytes are too few to start anything"
            raise PolicyError("memory", few, f"at least {LOWEST['memory']}")
        list(_mounts(policy))  # what makes no sense is refused now; it is looked at again each time
        variable = f"{self.name.upper()}_BIN"
        self._binary = find_binary(
            self.name, variable, remedy=self.remedy, binary=binary, outside=policy.writable_paths
        )
        self._engine: Engine | None = None

    async def _start(self, argv: Sequence[str], stdio: tuple[int, int, int]) -> EnclosedProcess:
        mounts = [*_mounts(self.policy)]
        engine = await self._asked()
        client, passed = _handed_over(self._environment())
        workspace = new_workspace(self.policy.base_dir)
        name = f"ipybox-{os.path.basename(workspace).rpartition('-')[2]}"
        process: EnclosedProcess | None = None

        def prepare() -> None:
            make_workspace(workspace)
            if os.geteuid() == 0:
                os.chown(workspace, _NOBODY, _NOBODY)

        try:
            command = [self._binary, *self._global_options(), "run", "--rm", "--name", name]
            command += [*self._options(engine), "--mount", bind_mount(workspace, WORK), "-w", WORK, *mounts, *passed]
            if stat.S_ISFIFO(os.fstat(stdio[0]).st_mode):
                command.append("-i")
            # What comes after the image is the command's, whatever it looks like.
            command += ["--entrypoint=", "--", self.image, *argv]
            undo = [*_REPEATED, self._binary, *self._global_options(), "rm", "--force", name]
            process = EnclosedProcess(command, env=client, workspace=workspace, prepare=prepare, stdio=stdio, undo=undo)
            await process.started()
        except OSError as error:
            remove_workspace(workspace)
            raise ProgramStartError(f"{self.name} can't be started: {error}") from error
        except BaseException:
            if process is None:
                remove_workspace(workspace)
            raise
        return process

    async def _finished(self, result: ExecResult) -> ExecResult:
        # A command may give such an exit code as well, so the words have to be the engine's.
        said = {_ENGINE_FAILED: _ENGINE_SAID, NOT_EXECUTABLE: _RUNTIME_SAID}.get(result.exit_code)
        if said is not None and not result.stdout and said.search(result.stderr):
            raise ProgramStartError(f"{self.name} did not start the command: {result.stderr.strip()}")
        return result

    async def _asked(self) -> Engine:
        """What the engine can do, once it is known to be enough."""
        if self._engine is None:
            self._engine = await ask(self._binary, self.name, os.environ)
        asked: list[Field] = ["memory"]
        asked += [name for name in ("cpus", "processes") if getattr(self.policy, name) is not None]
        missing = [name for name in asked if name not in self._limits(self._engine) and name not in self.waived]
        if missing:
            raise PolicyNotEnforcedError(self.name, missing)
        return self._engine

    def _limits(self, engine: Engine) -> frozenset[Field]:
        return engine.limits & self.enforces

    def _global_options(self) -> list[str]:
        return []

    def _options(self, engine: Engine) -> list[str]:
        policy, limits = self.policy, self._limits(engine)
        options = [] if policy.network else ["--network=none"]
        if "processes" in limits:
            options.append(f"--pids-limit={PROCESSES if policy.processes is None else policy.processes}")
        if "memory" in limits:
            memory = f"{policy.memory // MEBIBYTE}m" if policy.memory % MEBIBYTE == 0 else f"{policy.memory}b"
            options += ["--memory", memory, *(["--memory-swap", memory] if engine.has_swap_limit else [])]
        if "cpus" in limits:
            options += ["--cpus", f"{CPUS if policy.cpus is None else policy.cpus:g}"]
        if policy.cpu_time is not None:
            options += ["--ulimit", f"cpu={policy.cpu_time}:{policy.cpu_time}"]
        options += ["--read-only", "--tmpfs", "/tmp:rw,noexec,nodev,nosuid,size=64m"]
        options += ["--cap-drop=ALL", "--security-opt", "no-new-privileges", "-u", self._user(engine)]
        return [*options, "--log-driver=none"]  # or all output would be kept on a disk as well

    def _user(self, engine: Engine) -> str:
        """Who the command is. It must be able to write in the work directory, which is nobody else's."""
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        inherited = os.environ if self.policy.inherit_env else None
        env = command_environment(self.policy.env, inherited=inherited, own={"HOME": WORK, "PWD": WORK})
        if "PATH" not in self.policy.env:
            del env["PATH"]  # which says where things are here, not in the image
        return env


class DockerDriver(ContainerDriver):
    """See :class:`ContainerDriver`. Root's commands run as 65534, those of others as their caller."""

    name: ClassVar[str] = "docker"
    remedy: ClassVar[str] = "install it: apt install docker.io, or see https://docs.docker.com/engine/install"

    def _user(self, engine: Engine) -> str:
        if os.geteuid() == 0:
            return f"{_NOBODY}:{_NOBODY}"
        # Without privileges, the engine's root is the caller, and everybody else nobody that is known here.
        return "0:0" if engine.is_rootless else f"{os.geteuid()}:{os.getegid()}"


class PodmanDriver(ContainerDriver):
    """See :class:`ContainerDriver`. Commands run as 65534.

    On WSL 2, Podman can limit neither memory nor processors: that takes ``waive=["memory"]``, as every policy limits
    memory.
    """

    name: ClassVar[str] = "podman"
    remedy: ClassVar[str] = "install it: apt install podman, dnf install podman, or brew install podman"

    def __init__(
        self,
        policy: ExecutionPolicy,
        *,
        waive: str | Iterable[str] = (),
        image: str = IMAGE,
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        self._is_on_wsl2 = "microsoft" in os.uname().release.lower()
        if self._is_on_wsl2:
            self.enforces = type(self).enforces - {"memory", "cpus"}  # type: ignore[misc]  # less than the class can
        super().__init__(policy, waive=waive, image=image, binary=binary)

    def _global_options(self) -> list[str]:
        return ["--cgroup-manager=cgroupfs"] if self._is_on_wsl2 else []

    def _options(self, engine: Engine) -> list[str]:
        options = super()._options(engine)
        # Not the caller's proxies, which may hold a password. No keys that would detach it from its input. No patience
        # when it is removed.
        options += ["--http-proxy=false", "--detach-keys=", "--stop-timeout=0"]
        if os.geteuid() != 0:
            options.append(f"--userns=keep-id:uid={_NOBODY},gid={_NOBODY}")
        return options

    def _user(self, engine: Engine) -> str:
        return f"{_NOBODY}:{_NOBODY}"


def _mounts(policy: ExecutionPolicy) -> Iterator[str]:
    """Options that show the policy's paths at their own places.

    Raises:
        PolicyError: One of them can't be shown; names it.
    """
    seen: set[str] = set()
    for name, read_only in (("writable_paths", False), ("readable_paths", True)):
        for index, path in enumerate(getattr(policy, name)):
            where = f"{name}[{index}]"
            if not os.path.exists(path):
                raise PolicyError(where, f"{path} does not exist", "create it first, or leave it out")
            roots = [os.path.realpath(each) for each in policy.writable_paths]
            if read_only and os.path.realpath(path) != path and is_below(path, [*roots, *policy.writable_paths]):
                raise PolicyError(where, f"{path} is a link that a command may have made", "name where it leads to")
            if path in _TAKEN or is_below(path, ("/proc", "/sys")):
                raise PolicyError(where, f"{path} is the container's own", "name what is needed in it")
            if read_only and (inner := _file_system_in(os.path.realpath(path))):
                raise PolicyError(
                    where, f"{inner} is another file system, which engines would leave writable", "name parts of it"
                )
            wanted = (os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK) if read_only else os.R_OK | os.W_OK
            if not _lets(path, wanted):
                who = "user 65534, as whom root's commands run" if os.geteuid() == 0 else "us"
                verb = "read" if read_only else "written"
                raise PolicyError(where, f"{path} can't be {verb} by {who}", "change its owner or its permissions")
            if path not in seen:
                seen.add(path)
                yield from ("--mount", bind_mount(path, path, read_only=read_only))


def _lets(path: str, wanted: int) -> bool:
    """Whether a path can be used by whom a command is here."""
    if os.geteuid() != 0:
        return os.access(path, wanted)
    found = os.stat(path)
    bits = found.st_mode >> (6 if found.st_uid == _NOBODY else 3 if found.st_gid == _NOBODY else 0)
    return bits & wanted == wanted


def _file_system_in(path: str) -> str | None:
    """A mount point in a directory. It stays as it is when the directory is bound read-only."""
    points = mount_points() if sys.platform.startswith("linux") else []
    return next((point for point in points if point != path and is_below(point, [path])), None)


def _handed_over(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A client's environment, and the options that hand a command's environment over.

    Values travel in the client's environment, as everybody on this machine can see command lines.
    """
    client, options = dict(os.environ), []
    for name, value in env.items():
        if "*" in name:
            raise PolicyError(f"env[{name!r}]", "engines take '*' as a pattern", "choose another name")
        if name in _CLIENTS and client.get(name) != value:
            options += ["-e", f"{name}={value}"]
        else:
            client[name] = value
            options += ["-e", name]
    return client, options
