# pyright: basic
"""What a job made comes home over SFTP: this side names every file, so that nothing over there chooses where it lands.

Names and contents are those of `artifacts.acceptance`; what is whole is so by hashes that the machine computed.
"""

from __future__ import annotations

import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko

from artifacts import acceptance, manifest, swap
from artifacts.errors import NotWhole
from artifacts.manifest import Entry, Manifest
from artifacts.shell import Shell

LARGEST_TREE = 64 * 2**30
"""Bytes that one artifact may have: an adapter, a checkpoint, logs. More is somebody filling this disk."""
MOST_FILES = 10_000
CHUNK = 2**20

Say = Callable[[int, int], None]
"""Hears bytes that are here, and bytes in all."""


def names(shell: Shell, folder: str) -> list[str]:
    """The entries of a remote folder; none where it is not there."""
    try:
        with shell.answering():
            return sorted(shell.sftp().listdir(folder))
    except FileNotFoundError:
        return []


def listing(shell: Shell, path: str, *, largest: int = LARGEST_TREE) -> dict[str, int] | None:
    """Relative names and sizes of the files at `path`: `""` for a file. None where nothing is there.

    Raises:
        NotWhole: a link, a device, a name or a size that is not taken over.
    """
    sftp = shell.sftp()
    found: dict[str, int] = {}

    def visit(place: str, name: str, attributes: paramiko.SFTPAttributes) -> None:
        mode = attributes.st_mode or 0
        if stat.S_ISDIR(mode):
            for each in sftp.listdir_attr(place):
                # `.` begins what the trainer has not renamed in yet.
                if not each.filename.startswith("."):
                    visit(f"{place}/{each.filename}", f"{name}/{each.filename}".lstrip("/"), each)
        elif stat.S_ISREG(mode):
            acceptance.accept_name(name or Path(path).name)
            found[name] = attributes.st_size or 0
        else:
            raise NotWhole(f"{name or path} is not taken over", why="it is neither a file nor a folder")
        if len(found) > MOST_FILES or sum(found.values()) > largest:
            raise NotWhole(f"{path} is not taken over", why=f"more than {largest:,} bytes or {MOST_FILES:,} files")

    try:
        with shell.answering():
            visit(path, "", sftp.lstat(path))
    except FileNotFoundError:
        return None
    return found


def fetch(shell: Shell, remote: str, final: Path, *, largest: int = LARGEST_TREE, say: Say | None = None) -> bool:
    """Brings a file or folder to `final`, verified; what is home already is not brought again.

    Returns whether there is one. The older one stands until the new one is whole.

    Raises:
        Unreachable: cut off; call it again.
        NotWhole: not what the machine's own hashes say, or not to be taken over.
        OSError: the disk here is full.
    """
    sizes = listing(shell, remote, largest=largest)
    if sizes is None:
        return False
    whole = _hashes(shell, remote, sizes)
    if final.exists() and manifest.make(final) == whole:
        return True
    beside = final.with_name(f".fetching-{final.name}")
    _remove(beside)
    try:
        done, total = 0, sum(sizes.values())
        for name, entry in whole.files.items():
            target = beside / name if name else beside
            target.parent.mkdir(parents=True, exist_ok=True)
            for count in _copy(shell, f"{remote}/{name}" if name else remote, target, entry.size):
                done += count
                if say is not None:
                    say(done, total)
        manifest.verify(beside, whole)
        if beside.is_dir():
            acceptance.accept(beside)
        else:
            acceptance.accept_content(beside, final.name)
        swap.bring_home(beside, final, lambda copy: manifest.verify(copy, whole))
    finally:
        _remove(beside)
    return True


def follow(shell: Shell, remote: str, local: Path, *, most: int = 64 * 2**20) -> int:
    """Appends to `local` what a growing text file has more than it, at most `most` bytes. Returns how many came.

    One that became shorter (a resume cut it back) is brought again from its start.
    """
    sftp = shell.sftp()
    here = local.stat().st_size if local.exists() else 0
    try:
        with shell.answering():
            attributes = sftp.lstat(remote)
            if not stat.S_ISREG(attributes.st_mode or 0):
                raise NotWhole(f"{remote} is not taken over", why="it is no file")
            there = attributes.st_size or 0
            if there == here:
                return 0
            begin = here if there > here else 0
            with sftp.open(remote, "rb") as source:
                source.seek(begin)
                data = source.read(min(most, there - begin))
    except FileNotFoundError:
        return 0
    local.parent.mkdir(parents=True, exist_ok=True)
    with local.open("ab" if begin else "wb") as target:
        target.write(data)
    return len(data)


def _hashes(shell: Shell, remote: str, sizes: dict[str, int]) -> Manifest:
    """What the machine says that it has, by its own sha256sum."""
    ordered = sorted(sizes)
    paths = [f"{remote}/{name}" if name else remote for name in ordered]
    found: list[str] = []
    for begin in range(0, len(paths), 100):  # an argument list has an end
        words = shlex.join(paths[begin : begin + 100])
        said = shell.run(f"for each in {words}; do sha256sum < \"$each\" | cut -d ' ' -f 1; done", timeout_s=3600)
        found += said.out.split()
    if len(found) != len(ordered):
        raise NotWhole(f"{remote} changed while it was looked at")
    return Manifest(files={name: Entry(size=sizes[name], sha256=sha) for name, sha in zip(ordered, found, strict=True)})


def _copy(shell: Shell, remote: str, target: Path, size: int) -> Iterator[int]:
    """The bytes of each piece, when it is here."""
    try:
        with shell.answering(), shell.sftp().open(remote, "rb") as source, target.open("wb") as file:
            source.prefetch(size)
            left = size
            while left > 0 and (data := source.read(min(CHUNK, left))):
                file.write(data)
                left -= len(data)
                yield len(data)
    except FileNotFoundError as error:
        raise NotWhole(f"{remote} went away while it was copied") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
