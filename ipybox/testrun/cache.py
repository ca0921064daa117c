"""Tests that passed need not run again while nothing that can influence them has changed. Floor: testrun.

What can: every file of the project, Python, what is installed, the settings of the run, and ipybox. What can't be seen
from here is anything else that a test looks at: files elsewhere, the network, the clock, chance.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from ipybox import __version__, arguments
from ipybox.testrun.model import CaseResult
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.project_files import ProjectFiles, look_at
from ipybox.testrun.results_file import ResultsFile

KEPT_RESULTS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The Python that runs the tests, and what is installed for it.

    Attributes:
        python: Its implementation, version and build.
        distributions: Name, version and origin of each.
        reason: Why these don't say all, such as a package that is installed as a link to a directory elsewhere, and
            so changes without its version; empty if they do.
    """

    python: str
    distributions: tuple[tuple[str, str, str], ...]
    reason: str = ""

    @classmethod
    def of_this_process(cls, root: str | os.PathLike[str]) -> Self:
        """What this process runs with.

        Args:
            root: The project's directory; packages that are installed as a link to it are fine.
        """
        project = Path(os.path.realpath(root))
        found, reason = set(), ""
        for each in metadata.distributions():
            name = each.metadata["Name"] or ""
            origin = each.read_text("direct_url.json") or ""
            found.add((name, each.version or "", origin))
            directory = _linked_directory(origin)
            if directory is not None and not directory.is_relative_to(project):
                reason = reason or f"{name} is installed from {directory} as a link, so it can change at any time"
        implementation = f"{sys.implementation.name} {sys.implementation.cache_tag} {sys.platform}"
        return cls(python=f"{implementation} {sys.version}", distributions=tuple(sorted(found)), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All that can influence the tests of a project.

    Attributes:
        digest: Of all of it; empty if nothing may be taken from the cache.
        reason: Why not; empty if there is a digest.
        files: How many files of the project it covers.
    """

    digest: str = ""
    reason: str = ""
    files: int = 0

    def key(self, test_id: str) -> bytes:
        """Under which the result of a test is kept.

        Raises:
            ValueError: There is no digest.
        """
        if not self.digest:
            raise ValueError(f"nothing can be cached: {self.reason}")
        return hashlib.sha256(f"{self.digest} {test_id}".encode("utf-8", "surrogatepass")).digest()


def fingerprint(files: ProjectFiles, environment: Environment, settings: Mapping[str, Any]) -> Fingerprint:
    """Puts together what can influence tests.

    Args:
        files: The project's.
        environment: The Python that runs them.
        settings: What else matters, such as isolation, environment variables, policy and hash seed; as JSON has it.
            Only a digest of them is kept.

    Raises:
        TypeError: Settings that are no JSON.
    """
    reason = files.reason or environment.reason
    if reason:
        return Fingerprint(reason=reason, files=files.files)
    facts = {
        "ipybox": __version__,
        "files": files.digest,
        "python": environment.python,
        "distributions": environment.distributions,
        "settings": settings,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return Fingerprint(digest=hashlib.sha256(text.encode()).hexdigest(), files=files.files)


class Cache:
    """Results of tests that passed. A context manager that opens and closes the file; methods work in between.

    It may be the file of a :class:`~ipybox.testrun.history.History`, and as with that, processes may share it, threads
    take turns, and it belongs where tests can't write: who writes to it decides what passes.

    Args:
        path: The file; it and its directory are made. If it is in the project, exclude it from the fingerprint.
        keep: Most results to keep; those that were of no use for the longest time go first.

    Raises:
        ResultsFileError: On entering and by all methods: the file can't be read or written.
        ResultsFileFormatError: Likewise: it is damaged, not ours, or of a later version. It is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: int = KEPT_RESULTS) -> None:
        self._keep = arguments.position("keep", keep)
        self._file = ResultsFile(path)

    def __enter__(self) -> Self:
        self._file.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def fingerprint(
        self,
        root: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any],
        exclude: Collection[str] = (),
        environment: Environment | None = None,
    ) -> Fingerprint:
        """What can influence the tests of a project now. Only files that changed since the last time are read.

        Take it before the run and again before :meth:`store`, as files can change meanwhile.

        Args:
            root: The project's directory.
            settings: As for :func:`fingerprint`.
            exclude: As for :func:`~ipybox.testrun.project_files.look_at`.
            environment: Default: that of this process.
        """
        place = os.fsencode(os.path.realpath(root))
        with self._file.reading() as reader:
            rows = reader.execute("SELECT path, stat, digest FROM contents WHERE root = ?", (place,))
            known = {path: (stamp, digest) for path, stamp, digest in rows}
        files = look_at(root, exclude=exclude, known=known)
        gone = known.keys() - files.contents.keys() if files.digest else set()  # else not all of it was seen
        new = {path: value for path, value in files.contents.items() if known.get(path) != value}
        if gone or new:
            with self._file.writing() as writer:
                writer.executemany(
                    "DELETE FROM contents WHERE root = ? AND path = ?", ((place, path) for path in sorted(gone))
                )
                writer.executemany(
                    "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)",
                    ((place, path, stamp, digest) for path, (stamp, digest) in sorted(new.items())),
                )
        return fingerprint(files, environment or Environment.of_this_process(root), settings)

    def lookup(self, fingerprint: Fingerprint, test_ids: Iterable[str]) -> dict[str, CaseResult]:
        """The results of those tests that passed with the same fingerprint; they say that they are cached."""
        if not fingerprint.digest:
            return {}
        found = {}
        now = time.time()
        with self._file.writing() as writer:
            for test_id in test_ids:
                key = fingerprint.key(test_id)
                row = writer.execute("SELECT result FROM passed WHERE key = ?", (key,)).fetchone()
                if row is None:
                    continue
                result = _from_text(row[0])
                if result is None or result.id != test_id or result.outcome is not Outcome.PASSED:
                    writer.execute("DELETE FROM passed WHERE key = ?", (key,))
                    continue
                writer.execute("UPDATE passed SET used_at = ? WHERE key = ?", (now, key))
                found[test_id] = replace(result, cached=True, attempts=0, flaky=False)
        return found

    def store(self, fingerprint: Fingerprint, results: Iterable[CaseResult]) -> int:
        """Keeps the results of tests that passed at once, in a run that began and ended with this fingerprint.

        All others are ignored: those that did not pass, that were skipped, flaky or from the cache; and those of an id
        that has another result as well.

        Returns:
            How many are kept.
        """
        if not fingerprint.digest:
            return 0
        every = tuple(results)
        times = Counter(result.id for result in every)
        good = [result for result in every if _is_sure(result) and times[result.id] == 1]
        now = time.time()
        with self._file.writing() as writer:
            writer.executemany(
                "INSERT OR REPLACE INTO passed VALUES (?, ?, ?)",
                ((fingerprint.key(result.id), json.dumps(result.to_dict()), now) for result in good),
            )
            writer.execute(
                "DELETE FROM passed WHERE key IN (SELECT key FROM passed ORDER BY used_at DESC LIMIT -1 OFFSET ?)",
                (self._keep,),
            )
        return len(good)


def _is_sure(result: CaseResult) -> bool:
    return result.outcome is Outcome.PASSED and not result.flaky and not result.cached and result.attempts == 1


def _from_text(text: str) -> CaseResult | None:
    try:
        return CaseResult.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _linked_directory(origin: str) -> Path | None:
    """The directory that an editable installation is a link to."""
    try:
        data = json.loads(origin or "{}")
        if data.get("dir_info", {}).get("editable"):
            return Path(os.path.realpath(unquote(urlsplit(data["url"]).path)))
    except (ValueError, AttributeError, KeyError):
        pass
    return None
