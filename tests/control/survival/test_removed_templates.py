"""Templates that are changed or removed under what is made from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.control.serving import Api, Server

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
