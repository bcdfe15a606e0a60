"""A machine that is reached by SSH: where it is, who logs in, and the one host key that it may show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteHost:
    address: str
    user: str
    key_file: Path
    """Private key, in OpenSSH's format."""
    host_key: str
    """Public, as OpenSSH writes it: `ssh-ed25519 AAAA...`. No other is accepted."""
    port: int = 22

    @property
    def known_as(self) -> str:
        """As OpenSSH names it in a known_hosts file."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"


def make_host_key() -> tuple[str, str]:
    """A new ed25519 pair in OpenSSH's formats: private, public. It is made here, so that the first contact is known."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, public
