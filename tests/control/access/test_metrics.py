"""What is counted."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ipybox.control.access.metrics import ServerMetrics


def values(metrics: ServerMetrics, name: str) -> dict[tuple[str, ...], float]:
    text, kind = metrics.render()
    assert kind.startswith("text/plain")
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name
    }


def test_servers_of_one_process_count_by_themselves() -> None:
    one, two = ServerMetrics("1"), ServerMetrics("2")
    one.observe_request("/api/v1/sessions", "GET", 200, 0.01)
    assert values(one, "ipybox_http_requests_total") == {("GET", "/api/v1/sessions", "2xx"): 1.0}
    assert values(two, "ipybox_http_requests_total") == {}


def test_labels_come_from_short_lists() -> None:
    metrics = ServerMetrics("1")
    for number in range(50):
        metrics.observe_request("unmatched", f"X{number}", 200 + number, 0.01)
        metrics.observe_statement(f"WORD{number} secret", 0.01)
    metrics.observe_request("unmatched", "GET", 0, 0.01)
    metrics.observe_statement("  select secret from x", 0.01)
    assert set(values(metrics, "ipybox_http_requests_total")) == {
        ("OTHER", "unmatched", "2xx"),
        ("GET", "unmatched", "none"),
    }
    assert set(values(metrics, "ipybox_db_seconds_count")) == {("OTHER",), ("SELECT",)}
    assert b"secret" not in metrics.render()[0]


def test_only_sessions_that_start_are_timed() -> None:
    metrics = ServerMetrics("1")
    with metrics.timed_start():
        pass
    with pytest.raises(RuntimeError), metrics.timed_start():
        raise RuntimeError
    assert values(metrics, "ipybox_session_start_seconds_count") == {(): 1.0}


def test_everything_that_was_promised_is_there() -> None:
    metrics = ServerMetrics("1.2", python="3.13", sandbox="userns")
    metrics.sessions.labels("running").set(3)
    metrics.executions.labels("cell", "completed").inc()
    metrics.execution.labels("cell").observe(1)
    metrics.walls.set(2)
    for counter in (metrics.events, metrics.uploaded, metrics.downloaded, metrics.denied_hosts):
        counter.inc(2)
    assert values(metrics, "ipybox_sessions") == {("running",): 3.0}
    assert values(metrics, "ipybox_build_info") == {("3.13", "userns", "1.2"): 1.0}
    assert values(metrics, "ipybox_rate_limited_total") == {("rate",): 0, ("quota",): 0, ("authentication",): 0}
    for name in ("events_total", "uploaded_bytes_total", "downloaded_bytes_total", "denied_hosts_total"):
        assert values(metrics, f"ipybox_{name}") == {(): 2.0}
    assert b"process_resident_memory_bytes" in metrics.render()[0]
