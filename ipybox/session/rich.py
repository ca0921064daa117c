"""What code shows besides text: pictures, tables, figures of matplotlib. Floor: session."""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import Any

LIMIT = 10_000_000
"""Characters of all that one run shows; what would pass that is dropped."""
FORMATS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/json": "json",
    "application/pdf": "pdf",
}
"""Short names of what is shown."""
_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_json_": "application/json",
    "_repr_pdf_": "application/pdf",
}


class Shown:
    """What was shown since somebody took it."""

    def __init__(self) -> None:
        self._outputs: list[dict[str, Any]] = []
        self._size = 0
        self._dropped = False

    def display(self, *values: Any) -> None:
        """Shows values, each in all forms that it has."""
        for value in values:
            if not self.add(value, "display_data"):
                sys.stdout.write(f"{value!r}\n")

    def add(self, value: Any, kind: str, text: str | None = None) -> bool:
        """Keeps the forms of a value that are more than text; returns whether it has any."""
        found = dict(_forms(value))
        for mime, (data, metadata) in found.items():
            metadata = {**metadata, "kind": kind, **({} if text is None else {"text": text[:1000]})}
            self._keep(mime, data, metadata)
        return bool(found)

    def take_figures(self) -> None:
        """Shows the open figures of matplotlib, if it is in use, and closes them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        try:
            for number in pyplot.get_fignums():
                file = io.BytesIO()
                pyplot.figure(number).savefig(file, format="png", bbox_inches="tight")
                self._keep("image/png", file.getvalue(), {"kind": "display_data"})
            pyplot.close("all")
        except Exception as error:
            sys.stderr.write(f"a figure could not be drawn: {type(error).__name__}: {error}\n")

    def taken(self) -> dict[str, Any]:
        """What was shown, and whether some of it was dropped; it begins anew after that."""
        taken = {"rich": self._outputs, "rich_dropped": self._dropped}
        self._outputs, self._size, self._dropped = [], 0, False
        return taken

    def _keep(self, mime: str, data: Any, metadata: dict[str, Any]) -> None:
        if isinstance(data, bytes):
            data = base64.b64encode(data).decode()
        elif not isinstance(data, str):
            data = json.dumps(data, default=repr)
        if self._size + len(data) > LIMIT:
            self._dropped = True
            return
        self._size += len(data)
        known = {key: text for key, text in metadata.items() if isinstance(text, str | int | float | bool)}
        self._outputs.append({"type": mime, "format": FORMATS.get(mime, mime), "data": data, "metadata": known})


def _forms(value: Any) -> list[tuple[str, tuple[Any, dict[str, Any]]]]:
    """Its MIME types, with data and metadata; what can't be had is left out."""
    if isinstance(value, type):
        return []
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, mime in (("_repr_mimebundle_", ""), *_METHODS.items()):
        try:
            shown = getattr(value, name, None)
            shown = shown() if shown is not None else None
        except Exception:
            continue
        if shown is None:
            continue
        if not mime:
            bundle = shown[0] if isinstance(shown, tuple) else shown
            found |= {each: (data, {}) for each, data in dict(bundle).items() if each != "text/plain"}
            continue
        is_pair = isinstance(shown, tuple) and len(shown) == 2 and isinstance(shown[1], dict)
        found.setdefault(mime, shown if is_pair else (shown, {}))
    return list(found.items())
