"""What stands against a sandbox is read off the machine, here off one that was made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipybox.sandbox.diagnosis import unavailable


def machine(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


SETTINGS = {
    "proc__sys__kernel__unprivileged_userns_clone": ("0\n", "1\n", "kernel.unprivileged_userns_clone is 0"),
    "proc__sys__user__max_user_namespaces": ("0\n", "15000\n", "user.max_user_namespaces is 0"),
    "proc__sys__kernel__apparmor_restrict_unprivileged_userns": (
        "1\n",
        "0\n",
        "kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_setting_of_the_kernel_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    bad, good, cause = SETTINGS[name]
    error = unavailable(["a: no"], machine(tmp_path / "bad", **{name: bad}))
    assert error.reason.startswith(cause)
    assert cause.split(" is ")[0] in error.remedies[0]
    error = unavailable(["a: no"], machine(tmp_path / "good", **{name: good}))
    assert cause not in error.reason


@pytest.mark.parametrize("name", [".dockerenv", "run__.containerenv"])
def test_a_container_is_named(tmp_path: Path, name: str) -> None:
    error = unavailable(["a: no"], machine(tmp_path, **{name: ""}))
    assert "container" in error.reason
    assert "--security-opt" in error.remedies[0]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
        ("staging: unshare: Operation not permitted", "plain user"),
        ("bwrap: unshare user ns: No space left on device", "max_user_namespaces"),
        (
            "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
            "max_user_namespaces",
        ),
        ("bubblewrap alone can't keep symbolic links from being replaced: /w/.git/hooks", "link"),
    ],
)
def test_what_was_said_tells_more_than_where_we_are(tmp_path: Path, said: str, remedy: str) -> None:
    error = unavailable([f"one way: {said}", "another: no"], machine(tmp_path, **{".dockerenv": ""}))
    assert remedy in " ".join(error.remedies)
    assert said in error.reason


def test_the_error_holds_every_attempt_in_one_line(tmp_path: Path) -> None:
    error = unavailable(["a: first\nline", "b: second"], str(tmp_path))
    assert "a: first / line; b: second" in error.reason


def test_on_a_machine_that_looks_well_the_attempts_speak(tmp_path: Path) -> None:
    error = unavailable(["a: no"], str(tmp_path))
    assert "bubblewrap" in error.reason
    assert "a: no" in error.reason
    assert error.remedies
