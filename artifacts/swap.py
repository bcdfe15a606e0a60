"""A verified rename into place: what stands under its final name is whole, before and after a crash at any point."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

INCOMING, OUTGOING = ".incoming-", ".outgoing-"


def bring_home(source: Path, final: Path, verify: Callable[[Path], None]) -> None:
    """Copies a file or folder to `.incoming-NAME` beside `final`, verifies the copy, and swaps it in.

    The older one is renamed to `.outgoing-NAME` first, since a folder cannot be replaced by a rename, and removed last.
    `verify` raises for a copy that is not whole: the older one then stands as it was. OSError: disk full, not writable.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    incoming, outgoing = _beside(final)
    _settle(final)
    try:
        _copy(source, incoming)
        verify(incoming)
    except BaseException:
        _remove(incoming)
        raise
    _sync_folder(final.parent)
    if final.exists():
        final.rename(outgoing)
    incoming.rename(final)
    _sync_folder(final.parent)
    _remove(outgoing)


def reconcile(folder: Path) -> None:
    """Finishes the swaps in `folder` that a crash cut short. Only what was verified is renamed in; safe to repeat."""
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        for prefix in (INCOMING, OUTGOING):
            if path.name.startswith(prefix):
                _settle(folder / path.name.removeprefix(prefix))


def _settle(final: Path) -> None:
    incoming, outgoing = _beside(final)
    if outgoing.exists() and not final.exists():
        # The older one is set aside only after the new one was verified: go forward, or back where it is gone.
        (incoming if incoming.exists() else outgoing).rename(final)
        _sync_folder(final.parent)
    _remove(incoming)
    _remove(outgoing)


def _beside(final: Path) -> tuple[Path, Path]:
    return final.with_name(INCOMING + final.name), final.with_name(OUTGOING + final.name)


def _copy(source: Path, target: Path) -> None:
    """Contents only: no modes, owners or links, so that nothing arrives executable or closed to its owner's group."""
    if source.is_dir():
        target.mkdir()
        for child in sorted(source.iterdir()):
            _copy(child, target / child.name)
        _sync_folder(target)
        return
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
