"""Templates that are changed or removed under what is made from them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx

from tests.control.serving import Api, Server, eventually

LOOK = "def handler(event):\n    import sys\n    return 'colorsys' in sys.modules\n"


def new_template(api: Api, name: str) -> None:
    body = {"id": name, "name": name, "preload": ["colorsys"], "warm": False}
    answer = api.post("/templates", json=body)
    assert answer.status_code == 201, answer.text


def test_a_session_whose_template_was_removed_still_comes_back_after_a_kill_and_keeps_what_it_had(
    mine: Server,
) -> None:
    api = mine.api()
    for name in ("removed", "changed"):
        new_template(api, name)
    sessions = [api.running_session(name) for name in ("removed", "changed")]
    assert api.delete("/templates/removed").status_code == 200
    assert api.put("/templates/changed", json={"preload": []}).status_code == 200
    mine.kill()
    mine.start()
    api = mine.api()
    for each in sessions:
        seen = api.session_when(each, "running", "failed")
        assert (seen["status"], seen["status_reason"]) == ("running", "server_restarted"), seen
        assert api.run(each, LOOK)["return_value"] is True
    assert api.run(api.running_session("changed"), LOOK)["return_value"] is False
    assert api.post("/sessions", json={"template_id": "removed"}).status_code == 400


def test_a_template_that_is_removed_while_sessions_come_up_from_it_still_makes_them(hurt_api: Api) -> None:
    for turn in range(3):
        new_template(hurt_api, f"going-{turn}")
        with ThreadPoolExecutor(6) as pool:
            made = [pool.submit(hurt_api.post, "/sessions", json={"template_id": f"going-{turn}"}) for _ in range(5)]
            assert hurt_api.delete(f"/templates/going-{turn}").status_code == 200
        for answer in (each.result() for each in made):
            assert answer.status_code in (201, 400), answer.text
            if answer.status_code == 201:
                seen = hurt_api.session_when(answer.json()["id"], "running", "failed")
                assert seen["status"] == "running", seen
                assert hurt_api.delete(f"/sessions/{seen['id']}").status_code == 204


def kept_warm(api: Api) -> list[list[str]]:
    """What those walls preload that are kept, but for the built-in template's."""
    (node,) = api.get("/health/detailed").json()["dependencies"]["runtime_nodes"]
    return sorted(wall["preload"] for wall in node["walls"] if wall["kept"] and wall["preload"])


def all_at_once(asks: list[Callable[[], httpx.Response]]) -> list[int]:
    with ThreadPoolExecutor(len(asks)) as pool:
        return [each.result().status_code for each in [pool.submit(ask) for ask in asks]]


def change(api: Api, template: str, **fields: Any) -> Callable[[], httpx.Response]:
    return lambda: api.put(f"/templates/{template}", json=fields)


def test_what_is_warm_after_many_changes_at_once_is_what_was_said_last(hurt_api: Api) -> None:
    body = {"id": "warm", "name": "warm", "preload": ["colorsys"], "warm": True}
    assert hurt_api.post("/templates", json=body).status_code == 201
    for _ in range(6):
        asks = [change(hurt_api, "warm", preload=[name]) for name in ("colorsys", "wave")]
        asks += [change(hurt_api, "warm", max_processes=40 + number) for number in range(3)]
        assert set(all_at_once(asks)) == {200}
        said = hurt_api.get("/templates/warm").json()["preload"]
        eventually(partial(kept_warm, hurt_api), [said].__eq__)
    assert set(all_at_once([change(hurt_api, "warm", warm=on) for on in (True, False, True, False)])) == {200}
    wanted = [said] if hurt_api.get("/templates/warm").json()["warm"] else []
    eventually(partial(kept_warm, hurt_api), wanted.__eq__)
    asks = [change(hurt_api, "warm", max_processes=50 + number, warm=True) for number in range(4)]
    codes = all_at_once([*asks, lambda: hurt_api.delete("/templates/warm"), *asks])
    assert set(codes) <= {200, 404}
    eventually(lambda: kept_warm(hurt_api), lambda seen: seen == [])


def test_two_warm_templates_that_say_the_same_are_both_warm_until_both_are_gone(hurt_api: Api) -> None:
    for name in ("one", "other"):
        body = {"id": name, "name": name, "preload": ["wave"], "warm": True}
        assert hurt_api.post("/templates", json=body).status_code == 201
    eventually(lambda: kept_warm(hurt_api), lambda seen: seen == [["wave"]])
    session = hurt_api.running_session("other")  # which waits until it is up
    assert hurt_api.delete(f"/sessions/{session}").status_code == 204
    assert hurt_api.delete("/templates/one").status_code == 200
    eventually(lambda: kept_warm(hurt_api), lambda seen: seen == [["wave"]])
    assert hurt_api.delete("/templates/other").status_code == 200
    eventually(lambda: kept_warm(hurt_api), lambda seen: seen == [])
