"""Sign-ins and notes: for whom they are, and for how long."""

from __future__ import annotations

from ipybox.control.console.one_time_notes import Note, OneTimeNotes
from ipybox.control.console.sign_ins import IDLE_SECONDS, SignIns


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sign_in_lasts_as_long_as_it_is_used() -> None:
    clock = _Clock()
    sign_ins = SignIns(clock)
    token = sign_ins.add("key")
    for _ in range(3):
        clock.now += IDLE_SECONDS - 1
        assert sign_ins.key_id(token) == "key"
    clock.now += IDLE_SECONDS
    assert sign_ins.key_id(token) is None
    assert sign_ins.key_id("") is None


def test_nobody_signs_others_out_by_signing_in_often() -> None:
    sign_ins = SignIns()
    other = sign_ins.add("other")
    theirs = [sign_ins.add("key") for _ in range(3000)]
    assert sign_ins.key_id(other) == "other"
    assert [sign_ins.key_id(token) for token in theirs[-20:]] == ["key"] * 20
    assert sign_ins.key_id(theirs[-21]) is None


def test_so_many_sign_ins_are_kept_and_no_more() -> None:
    sign_ins = SignIns()
    first = sign_ins.add("key")
    last = [sign_ins.add(f"key {number}") for number in range(2000)][-1]
    assert sign_ins.key_id(first) is None
    assert sign_ins.key_id(last) == "key 1999"


def test_a_form_token_is_for_one_identity_of_one_server() -> None:
    one, other = SignIns(), SignIns()
    token = one.form_token("a")
    assert one.is_form_token("a", token)
    assert not one.is_form_token("b", token)
    assert not other.is_form_token("a", token)
    assert not one.is_form_token("a", "ü\udcff")


def test_a_note_is_said_once_within_a_minute_and_to_whom_it_is_for() -> None:
    clock = _Clock()
    notes = OneTimeNotes(clock)
    name = notes.leave("ann", Note("hello", "secret"))
    assert notes.take("bob", name) is None
    assert notes.take("ann", name) == Note("hello", "secret")
    assert notes.take("ann", name) is None
    late = notes.leave("ann", Note("late"))
    clock.now += 61
    assert notes.take("ann", late) is None
    assert notes.take("ann", None) is None


def test_nobody_has_notes_of_others_forgotten() -> None:
    notes = OneTimeNotes()
    name = notes.leave("admin", Note("a key", "its secret"))
    theirs = [notes.leave("other", Note(str(number))) for number in range(1000)]
    assert notes.take("admin", name) == Note("a key", "its secret")
    assert [notes.take("other", each) is not None for each in theirs[-21:]] == [False, *[True] * 20]
