"""Parts of pages, made of records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError

from ipybox.control.console.assets import assets
from ipybox.control.console.rendering import environment
from ipybox.control.records import Artifact, Metrics
from ipybox.control.states import ExecutionStatus, InstallStatus, Reason
from tests.control.console.site import HOSTILE
from tests.control.made import NOW, a_session, an_execution

PAGES = environment(assets())


def _made(name: str, **facts: Any) -> str:
    return PAGES.get_template(name).render(visitor=SimpleNamespace(may=lambda scope: False, form_token=""), **facts)


def test_hosts_that_a_session_may_not_reach_and_packages_that_are_missing_are_named() -> None:
    session = a_session(
        denied_hosts={HOSTILE: 3},
        install_status=InstallStatus.FAILED,
        install_error=HOSTILE,
        reason=Reason.SERVER_RESTARTED,
        detail=HOSTILE,
    )
    html = _made("session_facts.html", session=session, is_alive=True, shows_owner=True, is_installing=False)
    assert ", 3 times" in html
    assert "Packages could not be installed" in html
    assert "server restarted" in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;") == 3
    assert "<img" not in html


def test_an_execution_shows_what_it_took_and_what_it_left() -> None:
    execution = an_execution(
        status=ExecutionStatus.FAILED,
        error_name="E",
        error_message=HOSTILE,
        has_return_value=True,
        return_value={HOSTILE: None},
        truncated=True,
        metrics=Metrics(
            duration_ms=1.0, cpu_time_ms=1500.0, peak_memory_mb=12.34, io_read_bytes=2048, io_write_bytes=0
        ),
        artifacts=(
            Artifact(
                path=f"a/{HOSTILE}", size=5, mime_type="text/plain", type="output", created_at=NOW, checksum="sha256:0"
            ),
        ),
    )
    html = _made("execution_facts.html", execution=execution, is_over=True, is_short=False)
    for text in ("1.5 s", "12.3 MB", "2 KiB", "5 B, changed", "more output than is kept"):
        assert text in html
    assert "path=a%2F%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26" in html
    assert "<img" not in html


def test_what_a_page_is_not_given_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(UndefinedError):
        _made("execution_facts.html", is_over=True, is_short=False)
