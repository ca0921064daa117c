"""The ``Content-Disposition`` of a download, as RFC 6266 wants it, for any name. Pure. Floor: control."""

from __future__ import annotations

from urllib.parse import quote

_UNSAFE = str.maketrans(dict.fromkeys('"\\%/', "_"))
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"


def content_disposition(name: str) -> str:
    """Tells a browser to save a file under a name, and never to show it.

    The first name is for old clients, ASCII with ``_`` for what can't be said; the second is the whole name in UTF-8.
    """
    name = name.rpartition("/")[2]
    if not name.strip(" ."):
        name = "download"
    plain = "".join(char if " " <= char <= "~" else "_" for char in name).translate(_UNSAFE)
    if plain == name:
        return f'attachment; filename="{plain}"'
    encoded = quote(name.encode("utf-8", "replace"), safe=_ATTRIBUTE_CHARACTERS)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
