"""A host for sessions, as the tests of the floor below have it."""

from __future__ import annotations

from tests.control.runtime.conftest import box, boxes, notebook, place

__all__ = ["box", "boxes", "notebook", "place"]
