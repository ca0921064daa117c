"""The text form of a display."""

from __future__ import annotations

import pytest

from ipybox.outputs import DisplayOutput, ExecutionResult


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/plain": "42"}, "42"),
        ({"text/plain": ["a\n", "b"]}, "a\nb"),
        ({"image/png": "AAAA"}, ""),
        ({}, ""),
    ],
)
def test_a_display_has_a_plain_text_form(data: dict[str, object], text: str) -> None:
    assert DisplayOutput("display_data", data).text == text


def test_two_results_do_not_share_their_list_of_images() -> None:
    assert ExecutionResult(None).images is not ExecutionResult(None).images
