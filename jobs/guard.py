"""The user data that a rented machine boots with: host key, who may enter, and the deadline, armed before all else.

`sky/deadline` is what ends the machine; this module only puts it there. cloud-init runs `bootcmd` at each boot, early
in its network stage, before it makes the host keys and before sshd starts.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from jobs.lambda_http import base_address, is_loopback

FOLDER = "/var/lib/launch-guard"
PUBLISHED = "/run/launch-deadline"
"""On the host: one line, the deadline as a whole epoch second of the host's own clock."""
LOG = "/var/log/launch-guard.log"
LARGEST_USER_DATA = 16 * 2**10
"""Bytes: what AWS takes; Lambda takes a megabyte."""

_BOOTCMD = f"""\
set -eu
umask 077
mkdir -p {FOLDER}
chmod 700 {FOLDER}
cd {FOLDER}
[ -s config.json ] || {{ echo %s | base64 -d > config.json.new; mv config.json.new config.json; }}
[ -s deadline ] || {{ echo %s | base64 -d | gzip -d > deadline.new; chmod 700 deadline.new; mv deadline.new deadline; }}
./deadline arm
"""


def user_data(
    *,
    instance_name: str,
    api: str,
    key: str,
    allowed_s: float,
    hold_s: float | None,
    host_key_private: str,
    host_key_public: str,
    authorized_keys: Sequence[str],
    job_folder: str,
) -> str:
    """A `#cloud-config` document for the launch request.

    `instance_name` is the exact name at the provider; `api` its address without a path, as the machine reaches it, and
    `key` the account's key there, both empty where powering off ends the machine;
    `allowed_s` counts from the first boot; `hold_s`, from the end of the job, or None. `host_key_private` and
    `host_key_public` are an ed25519 pair in OpenSSH's formats; `authorized_keys`, public keys that may log in as the
    image's user beside the one that the launch request names; `job_folder`, an absolute path on the machine.

    It holds the machine's private host key, and the API key: it goes into no log, file or task.

    Raises:
        ValueError: the document is larger than `LARGEST_USER_DATA`, or `allowed_s` is not positive.
    """
    if not allowed_s > 0:
        raise ValueError(f"a machine without time: {allowed_s}")
    config = {
        "name": instance_name,
        "api": api,
        "key": key,
        "allowed_s": allowed_s,
        "hold_s": hold_s,
        "job_folder": job_folder,
    }
    script = gzip.compress(script_file().read_bytes(), mtime=0)
    document: dict[str, object] = {
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host_key_private, "ed25519_public": host_key_public},
        # The guard's files are written here, since write_files comes later. `echo` is the shell's own: the key is in
        # the arguments of no process.
        "bootcmd": [_BOOTCMD % (_base64(json.dumps(config).encode()), _base64(script))],
    }
    if authorized_keys:
        document["ssh_authorized_keys"] = list(authorized_keys)
    text = "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False, width=10**6)
    if len(text.encode()) > LARGEST_USER_DATA:
        raise ValueError(f"user data of {len(text.encode())} bytes")
    return text


def script_file() -> Path:
    """`sky/deadline`: inside the installed package, or in a checkout."""
    here = Path(__file__).parent
    installed = here / "_sky" / "deadline"
    return installed if installed.exists() else here.parent / "sky" / "deadline"


def address_on_host(environ: Mapping[str, str]) -> str:
    """The API's address as a rented machine reaches it.

    That of `base_address`; only where that is a test's server on this computer, whose loopback is not the machine's,
    `$LAUNCH_LAMBDA_URL_ON_HOST` may name another for it.
    """
    base = base_address(environ)
    return environ.get("LAUNCH_LAMBDA_URL_ON_HOST", base) if is_loopback(base) else base


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
