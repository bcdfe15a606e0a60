"""What a job reads goes to the machine: by content, resumable, verified there, each file at its place, a marker last.

On the machine, under one folder: `blobs/SHA256` verified content, `incoming/SHA256` what is under way, `jobs/JOB/...`
hard links (or copies, where the trainer writes) of blobs. So nothing that is there is sent again, whatever its name.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import LaunchError, NotWhole, Unreachable, UsageProblem
from artifacts.manifest import entry
from artifacts.shell import Shell

MARKER = "SYNCED"
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com"
"""The fastest first, where the processors have AES instructions."""

_RSYNC_CUT = frozenset({10, 12, 30, 35, 255})
"""Exit codes of rsync for a connection that was not made, was lost, or went silent; 255 is ssh's own."""
_PROGRESS = re.compile(rb"^\s*([\d,.]+)\s+\d+%", re.MULTILINE)

Say = Callable[[int, int], None]
"""Hears bytes that are there, and bytes in all. It may raise, and ends the transfer by it."""


@dataclass(frozen=True)
class Item:
    """A file of this machine. `compress`: text travels smaller, weights do not. `copy`: the trainer writes into it."""

    source: Path
    compress: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Sent:
    files: int
    total_bytes: int
    sent_bytes: int
    """Of files that were not on the machine before."""


class Hashes:
    """SHA-256 of files by path, size, time and inode, kept in a JSON file, so that weights are hashed once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._known: dict[str, tuple[list[int], str]] = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):
            self._known = {}

    def of(self, path: Path) -> tuple[str, int]:
        """Hash and size."""
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1], stat.st_size
        sha256 = entry(path).sha256
        self._known[str(path)] = (stamp, sha256)
        return sha256, stat.st_size

    def save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Jobs that send at once share the file: each writes one of its own, and the last one stands.
        beside = self._file.with_name(f".{self._file.name}-{os.getpid()}-{threading.get_ident()}")
        beside.write_text(json.dumps(self._known))
        beside.replace(self._file)


def send(
    shell: Shell, parcel: Mapping[str, Item], *, root: str, job: str, hashes: Hashes, staging: Path, say: Say
) -> Sent:
    """Brings `parcel` (path in the job's folder -> file) to `root/jobs/job` on the machine, and writes the marker.

    `root` is relative to the login folder, or absolute. A transfer that was cut goes on where it stopped.

    Raises:
        Unreachable: the connection was cut; call it again.
        NotWhole: what arrived is not what was sent.
        LaunchError: the disk there is full; a file here cannot be read.
    """
    if shutil.which("rsync") is None:
        raise UsageProblem("rsync is not installed here", next_step="install it (apt install rsync), and again")
    try:
        content = {name: hashes.of(item.source) for name, item in parcel.items()}
    except OSError as error:
        raise LaunchError(f"{error.filename} cannot be read", why=error.strerror or str(error)) from error
    hashes.save()
    there = _there(shell, root, job)
    missing: dict[str, Item] = {}
    sizes: dict[str, int] = {}
    for name, item in parcel.items():
        sha256, size = content[name]
        sizes[sha256] = size
        if sha256 not in there:
            missing.setdefault(sha256, item)
    total = sum(sizes.values())
    done = total - sum(sizes[sha256] for sha256 in missing)
    say(done, total)
    for compress in (True, False):
        group = {sha256: item.source for sha256, item in missing.items() if item.compress is compress}
        if group:
            _rsync(
                shell, group, root, staging, compress=compress, say=lambda more, before=done: say(before + more, total)
            )
            done += sum(sizes[sha256] for sha256 in group)
    _verify(shell, root, missing)
    _place(shell, root, job, {name: (content[name][0], item.copy) for name, item in parcel.items()})
    return Sent(len(parcel), total, sum(sizes[sha256] for sha256 in missing))


def ssh_command(shell: Shell, known_hosts: Path) -> list[str]:
    """OpenSSH with this host's pinned key and nothing of the user's own configuration."""
    host = shell.host
    known_hosts.write_text(f"{host.known_as} {host.host_key}\n")
    options = {
        "UserKnownHostsFile": shlex.quote(str(known_hosts)) if " " in str(known_hosts) else str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "Ciphers": CIPHERS,
        "Compression": "no",
    }
    words = ["ssh", "-F", "none", "-i", str(host.key_file), "-p", str(host.port)]
    return [*words, *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _there(shell: Shell, root: str, job: str) -> set[str]:
    """The content that the machine has, verified."""
    folders = " ".join(shlex.quote(f"{root}/{name}") for name in ("blobs", "incoming", f"jobs/{job}"))
    said = shell.run(
        f"mkdir -p {folders} && rm -f {shlex.quote(f'{root}/jobs/{job}/{MARKER}')} && ls {shlex.quote(root)}/blobs"
    )
    if said.status:
        raise _full(said.err) or LaunchError(f"The folder {root} cannot be made on the machine", why=said.err.strip())
    return set(said.out.split())


def _rsync(
    shell: Shell, group: Mapping[str, Path], root: str, staging: Path, *, compress: bool, say: Callable[[int], None]
) -> None:
    """Sends files under their hashes, by way of a folder of links. What is there in part is gone on with."""
    links = staging / "links"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for sha256, source in group.items():
        (links / sha256).symlink_to(source.absolute())
    argv = ["rsync", "--recursive", "--copy-links", "--append-verify", "--no-inc-recursive", "--info=progress2",
            "--outbuf=N", "--timeout=60", *(["--compress"] if compress else []),
            "-e", shlex.join(ssh_command(shell, staging / "known_hosts")),
            f"{links}/", f"{shell.host.user}@{shell.host.address}:{root}/incoming/"]  # fmt: skip
    problems = staging / "rsync.err"
    with problems.open("wb") as err, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=err) as child:
        assert child.stdout is not None
        try:
            while chunk := os.read(child.stdout.fileno(), 4096):
                seen = _PROGRESS.findall(chunk.replace(b"\r", b"\n"))
                if seen:
                    say(int(re.sub(rb"\D", b"", seen[-1])))
        except BaseException:
            child.terminate()
            raise
    said = problems.read_text(errors="replace").strip()
    if not child.returncode:
        return
    last = said.splitlines()[-1] if said else f"exit {child.returncode}"
    if (full := _full(said)) is not None:
        raise full
    if child.returncode in _RSYNC_CUT:
        raise Unreachable(f"The upload to {shell.host.address} was cut", why=last)
    raise LaunchError("The upload failed", why=said[-2000:] or last)


def _verify(shell: Shell, root: str, missing: Mapping[str, Item]) -> None:
    """Compares what arrived with its name, and keeps what is right."""
    if not missing:
        return
    script = f"cd {shlex.quote(root)}/incoming && exec python3 -c {shlex.quote(_VERIFY)}"
    said = shell.run(script, stdin="".join(f"{sha}\n" for sha in missing), timeout_s=3600)
    if said.status:
        raise LaunchError("What arrived on the machine could not be looked at", why=said.err.strip()[-2000:])
    if said.out.strip():
        names = ", ".join(missing[sha].source.name for sha in said.out.split() if sha in missing)
        raise NotWhole(f"What arrived on the machine is not what was sent: {names}", why=said.err.strip())


_VERIFY = """\
import hashlib, os, sys
from concurrent.futures import ThreadPoolExecutor

def check(name):
    digest = hashlib.sha256()
    try:
        with open(name, "rb", buffering=0) as file:
            for piece in iter(lambda: file.read(2**20), b""):
                digest.update(piece)
    except OSError as error:
        print(error, file=sys.stderr)
        return name + "\\n"
    if digest.hexdigest() == name:
        os.replace(name, os.path.join("..", "blobs", name))
        return ""
    os.unlink(name)
    return name + "\\n"

with ThreadPoolExecutor(os.cpu_count()) as threads:
    sys.stdout.writelines(threads.map(check, sys.stdin.read().split()))
"""
"""For the host's Python (3.8): its SHA-256 is OpenSSL's, three times as fast as coreutils', and on all cores."""


def _place(shell: Shell, root: str, job: str, names: Mapping[str, tuple[str, bool]]) -> None:
    """Gives each content its name in the job's folder, and last of all writes the marker."""
    wrong = [name for name in names if "\n" in name or "\t" in name]
    if wrong:
        raise UsageProblem(f"{wrong[0]!r} has a line break or a tab in its name", next_step="rename it")
    script = f"""\
set -e
cd {shlex.quote(root)}/jobs/{shlex.quote(job)}
while IFS=$'\\t' read -r how each name; do
  mkdir -p "$(dirname "./$name")"
  rm -f "./$name"
  if [ "$how" = copy ]; then cp "../../blobs/$each" "./$name"; else ln "../../blobs/$each" "./$name"; fi
done
echo synced > .{MARKER}
mv -f .{MARKER} {MARKER}
"""
    lines = "".join(f"{'copy' if copy else 'link'}\t{sha}\t{name}\n" for name, (sha, copy) in names.items())
    said = shell.run(f"bash -c {shlex.quote(script)}", stdin=lines, timeout_s=600)
    if said.status:
        raise _full(said.err) or LaunchError("The files could not be put in their places", why=said.err.strip())


def _full(said: str) -> LaunchError | None:
    if "No space left on device" not in said:
        return None
    return LaunchError(
        "The disk of the rented machine is full", why=said.strip().splitlines()[0], next_step="take a larger machine"
    )
