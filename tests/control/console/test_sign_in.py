"""Signing in to a server that needs keys, and what a key allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.control.console.site import HOSTILE, Site, shown
from tests.control.serving import Api, Server

pytestmark = pytest.mark.sandbox


def test_whoever_is_not_signed_in_is_asked_to_and_gets_where_he_was_going(stranger: Site, admin_key: str) -> None:
    answer = stranger.get("/console/sessions?status=running")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/sign-in?next=%2Fconsole%2Fsessions%3Fstatus%3Drunning"
    assert "Sign in" in stranger.get(answer.headers["location"]).text
    answer = stranger.sign_in(admin_key, "%2Fconsole%2Fsessions%3Fstatus%3Drunning")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sessions?status=running")
    assert stranger.get(answer.headers["location"]).status_code == 200
    assert "the boss" in stranger.get("/console").text
    assert stranger.get("/console/sign-in").headers["location"] == "/console"


def test_the_cookie_is_for_this_console_only_and_holds_no_key(stranger: Site, admin_key: str) -> None:
    cookie = stranger.sign_in(admin_key).headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/console"):
        assert part in cookie
    assert "Secure" not in cookie
    assert admin_key not in cookie
    assert admin_key.split("_")[1] not in cookie
    assert stranger.get("/api/v1/sessions").status_code == 401
    cookies = {"Cookie": cookie.partition(";")[0]}
    assert stranger.get("/api/v1/sessions", headers=cookies).status_code == 401
    assert stranger.get("/console", headers=cookies).status_code == 200


def test_the_cookie_is_for_https_only_where_there_is_https(stranger: Site, admin_key: str) -> None:
    stranger.headers["Origin"] = str(stranger.base_url).rstrip("/").replace("http://", "https://")
    assert "Secure" in stranger.sign_in(admin_key).headers["set-cookie"]


@pytest.mark.parametrize(
    "next", ["https://evil.example", "//evil.example", "/console/%5C..", "/docs", "/consolex", "javascript:1"]
)
def test_signing_in_leads_nowhere_else(stranger: Site, admin_key: str, next: str) -> None:
    assert stranger.sign_in(admin_key, next).headers["location"] == "/console"


@pytest.mark.parametrize("key", ["", HOSTILE, f"ipybox_{'a' * 12}_{'a' * 52}", "ü"])
def test_what_is_no_key_is_refused(stranger: Site, key: str) -> None:
    answer = stranger.sign_in(key)
    assert answer.status_code == 401
    assert "no key that counts" in shown(answer)
    assert "set-cookie" not in answer.headers
    assert key == "" or key not in answer.text


def test_scripts_of_whoever_is_not_signed_in_are_told_so(stranger: Site) -> None:
    answer = stranger.get("/console/sessions?part=list", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/console/sign-in")
    answer = stranger.get("/console/executions/x/stream", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 401
    assert stranger.post("/console/sessions", data={}).headers["location"] == "/console/sign-in"
    assert stranger.get("/console/nothing").status_code == 303


def test_a_revoked_key_is_signed_out_at_once(stranger: Site, keyed_api: Api, new_key: Callable[..., str]) -> None:
    key = new_key("short", "short", "read")
    assert stranger.sign_in(key).status_code == 303
    assert stranger.get("/console").status_code == 200
    assert keyed_api.delete(f"/keys/{key.split('_')[1]}").status_code == 204
    assert stranger.get("/console").headers["location"] == "/console/sign-in"


def test_whoever_signs_out_is_out(stranger: Site, admin_key: str) -> None:
    cookie = stranger.sign_in(admin_key).headers["set-cookie"].partition(";")[0]
    assert stranger.post("/console/sign-out", data={"form_token": ""}).status_code == 403
    answer = stranger.submit("/console/sign-out", None, "/console")
    assert answer.headers["location"] == "/console/sign-in"
    assert stranger.get("/console", headers={"Cookie": cookie}).status_code == 303


def test_a_key_sees_and_may_only_what_its_scopes_say(
    keyed_server: Server, keyed_api: Api, new_key: Callable[..., str]
) -> None:
    page = f"/console/sessions/{keyed_api.new_session()}"
    with Site(keyed_server.url) as reader, Site(keyed_server.url) as other:
        reader.sign_in(new_key("reader", "boss", "read"))
        other.sign_in(new_key("other", "other", "read", "execute"))
        assert page in reader.get("/console/sessions").text
        assert "New session" not in reader.get("/console/sessions").text
        assert 'name="code"' not in reader.get(page).text
        for path in ("/console/sessions", f"{page}/run", f"{page}/terminate", f"{page}/files", "/console/templates"):
            answer = reader.submit(path, {}, "/console")
            assert answer.status_code == 403
            assert "scope" in shown(answer)
        for path in ("/console/keys", "/console/audit", "/console/tests", "/console/templates/-/new"):
            assert reader.get(path).status_code == 403
            assert f'href="{path}"' not in reader.get("/console").text

        assert page not in other.get("/console/sessions").text
        for path in (page, f"{page}/file?path=x"):
            assert other.get(path).status_code == 404
        assert other.submit(f"{page}/delete", None, "/console/sessions").status_code == 404
        assert other.submit("/console/templates", {}, "/console/sessions").status_code == 403


def test_a_form_of_another_sign_in_is_refused(keyed_server: Server, admin_key: str) -> None:
    with Site(keyed_server.url) as first, Site(keyed_server.url) as second:
        for each in (first, second):
            each.sign_in(admin_key)
        assert second.post("/console/sign-out", data={"form_token": first.token("/console")}).status_code == 403
        assert second.get("/console").status_code == 200


def test_a_note_for_one_is_not_shown_to_another(keyed_server: Server, admin_key: str) -> None:
    with Site(keyed_server.url) as first, Site(keyed_server.url) as second:
        for each in (first, second):
            each.sign_in(admin_key)
        page = first.sent("/console/keys", {"name": "x", "owner": "x", "scopes": ["read"]}, "/console/keys")
        assert "only appearance" not in second.get(page).text
        assert "only appearance" in first.get(page).text


def test_who_has_no_key_sends_no_more_than_a_key(stranger: Site) -> None:
    """A form is held in memory, and one that comes slowly is held for long."""
    for body in (b"key=" + b"x" * 20_000, (b"x" * 1000 for _ in range(30))):
        answer = stranger.post(
            "/console/sign-in", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 413


def test_signing_in_counts_as_a_request_of_the_key(keyed_server: Server, stranger: Site, admin_key: str) -> None:
    with keyed_server.api(admin_key) as api:
        before = int(api.get("/keys/self").headers["ratelimit-remaining"])
        stranger.sign_in(admin_key)
        assert int(api.get("/keys/self").headers["ratelimit-remaining"]) <= before - 2
