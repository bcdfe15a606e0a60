"""The key of the user's Lambda account: where it lies, and when it is not taken."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from artifacts.errors import CredentialProblem

KEYS_PAGE = "https://cloud.lambda.ai/api-keys"


def key_file() -> Path:
    return Path.home() / ".lambda_cloud" / "lambda_keys"


def lambda_key(environ: Mapping[str, str]) -> str | None:
    """`$LAMBDA_API_KEY`, or the one in `~/.lambda_cloud/lambda_keys`, as SkyPilot reads it; None where there is none.

    Raises:
        CredentialProblem: there is a file or a variable, and no key in it; or every user of this computer can read
            the file, as OpenSSH refuses such a key. The message never holds the key.
    """
    given = environ.get("LAMBDA_API_KEY")
    where = "$LAMBDA_API_KEY"
    if given is None:
        file = key_file()
        where = str(file)
        try:
            with file.open(encoding="utf-8") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _no_key(where, f"It cannot be read ({type(error).__name__}).") from None
        _require_private(file, mode)
        found = [line.partition("=") for line in lines]
        given = next((value for name, _, value in found if name.strip() == "api_key"), "")
    key = given.strip()
    if not re.fullmatch(r"[!-~]+", key):  # a header takes nothing else, and its error would print the key
        raise _no_key(where, "It holds no key of printable characters without spaces.")
    return key


def _require_private(file: Path, mode: int) -> None:
    """A file that others may read is still private in a folder that they may not enter."""
    if os.name == "nt" or not mode & stat.S_IROTH or not file.parent.stat().st_mode & stat.S_IXOTH:
        return
    raise CredentialProblem(
        f"{file} can be read by every user of this computer.",
        why="Who has that key can rent machines on your account.",
        next_step=f"chmod 600 {file}   (and a new key from {KEYS_PAGE}, if someone else works on this computer)",
    )


def _no_key(where: str, why: str) -> CredentialProblem:
    return CredentialProblem(f"{where} holds no key of Lambda that can be used.", why=why, next_step=new_key())


def new_key() -> str:
    """What to do for a key that is accepted."""
    return f"make a key at {KEYS_PAGE}, and write api_key = KEY into ~/.lambda_cloud/lambda_keys"
