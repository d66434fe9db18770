"""Where a service listens: its socket on the network, and its TLS."""

import socket
import ssl
import tempfile
from pathlib import Path

EVERYWHERE = ("0.0.0.0", "[::]", "::")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; "0.0.0.0" and "[::]" are all addresses, of either kind of IP.

    Args:
        host: name or address; IPv6 addresses may have brackets.
        port: 0 takes a free one.

    Raises:
        OSError: it cannot be listened on, because somebody else does, say.
    """
    if host in EVERYWHERE and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=128)


def tls_context(cert: bytes, key: bytes) -> ssl.SSLContext:
    """Return the TLS of a service.

    Args:
        cert: certificate chain, PEM.
        key: its private key, PEM, without a password.

    Raises:
        ValueError: they are of no use, or do not belong together.
    """

    def no_password() -> str:
        raise ValueError("tls_key= needs a password; give a key without one")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    # The standard library reads files only.
    with tempfile.TemporaryDirectory(prefix="mkd-tls-") as folder:
        files = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        for path, content in zip(files, (cert, key), strict=True):
            path.write_bytes(content)
        try:
            context.load_cert_chain(*files, password=no_password)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ValueError(
                f"tls_cert= and tls_key= cannot be used together ({reason}); give a certificate and its key, both PEM"
            ) from None
    return context
