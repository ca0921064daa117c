"""What a key allows."""

from __future__ import annotations

import dataclasses

import pytest

from ipybox.control.access.scopes import ALL_SCOPES, LOCAL, Principal, Scope, parse_scopes
from ipybox.control.errors import ForbiddenError, RequestRefusedError


def who(*scopes: Scope) -> Principal:
    return Principal(owner="o", key_id="k", scopes=frozenset(scopes))


def test_a_key_may_do_what_its_scopes_say_and_nothing_else() -> None:
    for own in Scope:
        for asked in Scope:
            assert who(own).allows(asked) is (own is asked or own is Scope.ADMIN)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ForbiddenError, match="the scope 'templates'"):
        who(Scope.READ).require(Scope.TEMPLATES)
    who(Scope.READ).require(Scope.READ)


def test_only_admins_see_what_belongs_to_others() -> None:
    assert not who(*(ALL_SCOPES - {Scope.ADMIN})).sees_all
    assert who(Scope.ADMIN).sees_all


def test_without_keys_the_machine_may_do_everything() -> None:
    assert all(LOCAL.allows(scope) for scope in Scope)
    assert LOCAL.owner == "local"


def test_a_principal_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LOCAL.owner = "root"  # type: ignore[misc]


def test_scopes_are_taken_once_and_in_order_and_others_are_refused() -> None:
    assert parse_scopes(["admin", "read", "admin"]) == (Scope.READ, Scope.ADMIN)
    for wrong in (["root"], [], ["READ"], ["read "]):
        with pytest.raises(RequestRefusedError):
            parse_scopes(wrong)
