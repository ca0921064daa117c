"""TLS of a server: its certificate, which may be replaced while it serves. Floor: control."""

from __future__ import annotations

import ssl

from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings


class Certificate:
    """A certificate and its key, for all connections of a server.

    Attributes:
        context: For listening.

    Raises:
        ServerSettingsError: One of the files can't be read, is none, or they do not belong together.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._chain, self._key = settings.tls_cert, settings.tls_key or None
        self._newest = self.context = self._loaded()
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Takes what the files hold now, for new connections. What can't be taken leaves it as it was."""
        self._newest = self._loaded()

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        # Called for each connection, with a name or without one. Files that are replaced while they are read make a
        # context that fails, and not one that is half of each.
        connection.context = self._newest

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password of its own, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self._chain, self._key, password=lambda: "")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = " and ".join(filter(None, [self._chain, self._key]))
            raise ServerSettingsError("tls_cert", f"{files} can't be used: {error}") from error
        return context
