"""Names that matter outside the sandbox: what must not be written, what must not be read. Floor: sandbox.

Sandboxed code may write in a workspace, and much of what can lie there is run by somebody else later: hooks of git,
start files of shells, settings of editors and agents, virtual environments. Such places stay read-only where they
exist. And some places of a home hold credentials, which sandboxed code has no use for, but those who wrote it have.

Everything here is data but for two searches: :func:`find_protected` in a tree, :func:`existing_credentials` in a home.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ipybox.errors import PolicyError
from ipybox.sandbox.path_patterns import entries_of

PROTECTED_NAMES = frozenset(
    {
        ".gitconfig",
        ".gitmodules",
        ".bashrc",
        ".bash_profile",
        ".bash_login",
        ".bash_logout",
        ".bash_aliases",
        ".profile",
        ".zshrc",
        ".zprofile",
        ".zshenv",
        ".zlogin",
        ".zlogout",
        ".ripgreprc",
        ".envrc",
        "sitecustomize.py",
        "usercustomize.py",
        ".mcp.json",
        ".vscode",
        ".idea",
        ".codex",
        ".agents",
    }
)
"""Files and directories that are read-only wherever they exist in a workspace, in any spelling of case."""

PROTECTED_IN_CLAUDE = ("commands", "agents")
"""Read-only in ``.claude``, as are its ``settings*.json``."""

PROTECTED_IN_GIT = ("commondir", "config", "config.worktree", "hooks")
"""Read-only in a git directory, and in those of its submodules."""

NEEDED_IN_GIT = ("commondir", "config", "hooks")
"""Those that must not come to be: ``commondir`` names another directory whose ``config`` counts instead."""

PROTECTED_IN_ENVIRONMENT = ("bin", "conda-meta", "include", "lib", "lib64", "pyvenv.cfg", "Scripts")
"""Read-only where the writable directory is itself a virtual environment."""

ENVIRONMENT_MARKS = frozenset({"pyvenv.cfg", "conda-meta"})
"""A directory with one of these is a virtual environment."""

PROTECTED_IN_HOME = (
    ".ipython",
    ".jupyter",
    ".local/share/jupyter",
    "Library/Jupyter",
    ".local/bin",
    "bin",
    ".local/share/applications",
    ".config/autostart",
    ".config/environment.d",
    ".config/fish",
    ".config/git",
    ".config/systemd",
)
"""Never writable, relative to the home: what is put here runs outside the sandbox later."""

CREDENTIALS = (
    # keys and tokens
    ".ssh",
    ".gnupg",
    ".pki",
    ".password-store",
    ".netrc",
    ".authinfo",
    ".authinfo.gpg",
    ".git-credentials",
    ".config/git/credentials",
    ".env",
    ".vault-token",
    ".age",
    ".config/sops",
    ".config/op",
    ".config/Bitwarden CLI",
    ".config/1Password",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".Xauthority",
    ".ICEauthority",
    # clouds and clusters
    ".aws",
    ".azure",
    ".oci",
    ".aliyun",
    ".boto",
    ".s3cfg",
    ".config/gcloud",
    ".config/doctl",
    ".config/hcloud",
    ".config/rclone",
    ".config/heroku",
    ".config/netlify",
    ".kube",
    ".docker",
    ".config/containers/auth.json",
    ".terraform.d",
    ".terraformrc",
    ".fly",
    # forges and package registries
    ".config/gh",
    ".config/hub",
    ".config/glab-cli",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".config/pip/pip.conf",
    ".pip/pip.conf",
    ".config/pypoetry/auth.toml",
    ".local/share/uv/credentials",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".nuget/NuGet",
    ".composer/auth.json",
    ".config/composer/auth.json",
    ".huggingface/token",
    ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens",
    ".kaggle",
    ".config/wandb",
    ".databrickscfg",
    ".snowsql",
    ".snowflake",
    # databases
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    # agents
    ".claude.json",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini",
    ".config/github-copilot",
    # browsers and mail
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/google-chrome-beta",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/opera",
    ".config/vivaldi",
    "snap/firefox",
    "snap/chromium",
    ".var/app",
    ".config/evolution",
    # what was typed
    ".bash_history",
    ".zsh_history",
    ".zhistory",
    ".histfile",
    ".sh_history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".ipython/profile_default/history.sqlite",
    ".node_repl_history",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".lesshst",
    ".viminfo",
)
"""Never readable, relative to the home."""

SECRETS_IN_ETC = frozenset(
    {
        "docker",
        "gshadow",
        "gshadow-",
        "krb5.keytab",
        "kubernetes",
        "machine-id",
        "security",
        "shadow",
        "shadow-",
        "ssh",
        "ssl/private",
        "pki/tls/private",
        "sudoers",
        "sudoers.d",
    }
)
"""Never readable, relative to ``/etc``; only root could read most of them, and a caller may be root."""

SEARCH_DEPTH = 3
"""How far below a writable directory protected names are looked for."""

SEARCH_ENTRIES = 1_000_000
"""How many directory entries such a search may meet."""


@dataclass(frozen=True, slots=True)
class Protected:
    """What :func:`find_protected` found.

    Attributes:
        paths: Files and directories, none of which is a link.
        links: Symbolic links of a protected name. Nothing can be mounted over a link by path, so whoever builds the
            sandbox has to see to them; where they lead to is in ``paths``, if that is below the same directory.
        missing: What is not there and would run code for whoever uses the place next: parts of a git directory.
    """

    paths: tuple[str, ...]
    links: tuple[str, ...]
    missing: tuple[str, ...] = ()


def find_protected(root: str, *, depth: int = SEARCH_DEPTH, limit: int = SEARCH_ENTRIES) -> Protected:
    """Finds what must stay read-only below a writable directory.

    Args:
        root: The directory, without links in its path. A file has nothing below it.
        depth: Directories that are further below it are not looked into.
        limit: More directory entries than that are a :class:`PolicyError`, never an incomplete answer.
    """
    search = _Search(root, limit)
    search.look(root, depth)
    return Protected(tuple(sorted(search.paths)), tuple(sorted(search.links)), tuple(sorted(search.missing)))


def is_environment(directory: str) -> bool:
    """True for the directory of a virtual environment."""
    return any(os.path.lexists(os.path.join(directory, mark)) for mark in ENVIRONMENT_MARKS)


def is_protected_name(parts: Iterable[str]) -> bool:
    """True if a path with these components leads into a protected place, whether or not it exists."""
    previous = ""
    for part in parts:
        name = part.casefold()
        if name in PROTECTED_NAMES:
            return True
        if previous == ".git" and name in PROTECTED_IN_GIT:
            return True
        if previous == ".claude" and (name in PROTECTED_IN_CLAUDE or _is_claude_setting(name)):
            return True
        previous = name
    return False


def existing_credentials(home: str) -> Iterator[str]:
    """Credential paths that exist in a home; for a link also the place that it leads to."""
    for name in CREDENTIALS:
        path = os.path.join(home, name)
        if os.path.lexists(path):
            yield path
            real = os.path.realpath(path)
            if real != path and os.path.lexists(real):
                yield real


class _Search:
    def __init__(self, root: str, limit: int) -> None:
        self._root, self._limit, self._seen = root, limit, 0
        self.paths: set[str] = set()
        self.links: set[str] = set()
        self.missing: set[str] = set()

    def look(self, root: str, depth: int) -> None:
        if os.path.basename(root).casefold() == ".git":
            self._git_directory(root)
        pending = [(root, 0)]
        while pending:
            directory, level = pending.pop()
            below = []
            entries = self._entries(directory)
            if {"HEAD", "config", "objects", "refs"} <= {entry.name for entry in entries}:
                self._git_directory(directory)  # a bare repository, which git finds by what it holds
            if any(entry.name in ENVIRONMENT_MARKS for entry in entries):
                self._environment(directory)
                if directory != root:
                    continue
            for entry in entries:
                name = entry.name.casefold() if entry.name.startswith((".", "s", "u", "S", "U")) else ""
                if name in PROTECTED_NAMES:
                    self._protect(entry.path)
                elif name == ".git":
                    self._git(entry)
                elif entry.is_dir(follow_symlinks=False):
                    if name == ".claude":
                        self._claude(entry.path)
                    below.append((entry.path, level + 1))
                elif name == ".claude" and entry.is_symlink():
                    self._protect(entry.path)
            if level < depth:
                pending.extend(below)

    def _entries(self, directory: str) -> list[os.DirEntry[str]]:
        try:
            found = entries_of(directory, f"writable directory {self._root}")
        except PermissionError:
            self.paths.add(directory)  # closed now; sandboxed code could open it, so it must not change it
            return []
        self._seen += len(found)
        if self._seen > self._limit:
            raise PolicyError(
                f"writable directory {self._root}",
                f"it has more than {self._limit} entries down to depth {SEARCH_DEPTH}, too many to be protected",
                "name smaller directories in allowWrite",
            )
        return found

    def _protect(self, path: str) -> None:
        """Notes a path as protected, and where it leads to if it is a link."""
        if not os.path.lexists(path):
            return
        if not os.path.islink(path):
            self.paths.add(path)
            return
        self.links.add(path)
        real = os.path.realpath(path)
        if real.startswith(self._root.rstrip("/") + "/") and os.path.exists(real):
            self.paths.add(real)

    def _environment(self, directory: str) -> None:
        if directory != self._root:
            self.paths.add(directory)
            return
        for name in PROTECTED_IN_ENVIRONMENT:
            self._protect(os.path.join(directory, name))

    def _claude(self, directory: str) -> None:
        for entry in self._entries(directory):
            name = entry.name.casefold()
            if name in PROTECTED_IN_CLAUDE or _is_claude_setting(name):
                self._protect(entry.path)

    def _git(self, entry: os.DirEntry[str]) -> None:
        if entry.is_dir(follow_symlinks=False):
            self._git_directory(entry.path)
            return
        self._protect(entry.path)
        directory = _git_directory_of(entry.path)
        if directory is not None and directory.startswith(self._root.rstrip("/") + "/"):
            self._git_directory(directory)

    def _git_directory(self, directory: str) -> None:
        entries = self._entries(directory)
        names = {entry.name.casefold() for entry in entries}
        if "head" in names:
            self.missing.update(os.path.join(directory, name) for name in NEEDED_IN_GIT if name not in names)
        for entry in entries:
            name = entry.name.casefold()
            if name in PROTECTED_IN_GIT:
                self._protect(entry.path)
            elif name == "worktrees" and entry.is_dir(follow_symlinks=False):
                for worktree in self._entries(entry.path):
                    for each in ("commondir", "config.worktree", "gitdir"):
                        self._protect(os.path.join(worktree.path, each))
            elif name == "modules" and entry.is_dir(follow_symlinks=False):
                self._modules(entry.path)

    def _modules(self, directory: str) -> None:
        """The git directories of submodules, whose names may have slashes."""
        pending = [directory]
        while pending:
            for entry in self._entries(pending.pop()):
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if os.path.lexists(os.path.join(entry.path, "HEAD")):
                    self._git_directory(entry.path)
                else:
                    pending.append(entry.path)


def _git_directory_of(path: str) -> str | None:
    """Where a ``.git`` file, or a link of that name, says that the repository is."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        return real
    try:
        if os.path.getsize(real) > 8192:
            return None
        with open(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            text = os.fsdecode(file.read(8192) or b"")  # None of a pipe that nobody has written to
    except OSError:
        return None
    word, _, target = text.strip().partition(": ")
    if word != "gitdir" or not target or "\0" in target:
        return None
    directory = os.path.realpath(os.path.join(os.path.dirname(path), target))
    return directory if os.path.isdir(directory) else None


def _is_claude_setting(name: str) -> bool:
    return name.startswith("settings") and name.endswith(".json")
