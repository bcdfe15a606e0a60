"""What stands under its final name is whole, whatever call the crash came at."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from artifacts import manifest, swap
from artifacts.errors import NotWhole


class Crash(BaseException):
    """The power went."""


def tree(folder: Path, text: str) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.json").write_text(text)
    (folder / "deep" / "b.json").write_text(text * 2)
    return folder


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raises in place of the `number`th call that changes the disk, and in every one after it."""
    count = 0

    def counted(call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= number:
                raise Crash
            return call(*args, **kwargs)

        return wrapped

    for name in ("rename", "mkdir", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(shutil, "copyfileobj", counted(shutil.copyfileobj))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))


@pytest.mark.parametrize("older", [True, False])
def test_a_crash_at_any_call_leaves_old_or_new_and_reconcile_finishes(tmp_path, older):
    source = tree(tmp_path / "source", "new")
    new = manifest.make(source)
    crashes = 0
    for number in range(1, 60):
        home = tmp_path / f"home-{number}"
        final = home / "adapter"
        home.mkdir()
        old = manifest.make(tree(final, "old")) if older else None
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            try:
                swap.bring_home(source, final, lambda copy: manifest.verify(copy, new))
            except Crash:
                crashes += 1
        if final.exists():
            assert manifest.make(final) in (old, new)
        swap.reconcile(home)
        assert [path.name for path in home.iterdir()] in (["adapter"], [] if not older else ["adapter"])
        if final.exists():
            assert manifest.make(final) in (old, new)
        swap.bring_home(source, final, lambda copy: manifest.verify(copy, new))
        assert manifest.make(final) == new
    assert 10 < crashes < 59, "the loop must reach past the last call"


def test_a_crash_between_the_two_renames_goes_forward(tmp_path):
    tree(tmp_path / ".incoming-adapter", "new")
    tree(tmp_path / ".outgoing-adapter", "old")
    swap.reconcile(tmp_path)
    assert (tmp_path / "adapter" / "a.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_was_not_verified_is_never_renamed_in(tmp_path):
    tree(tmp_path / ".incoming-adapter", "torn")
    swap.reconcile(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_not_whole_leaves_the_older_one(tmp_path):
    source, final = tree(tmp_path / "source", "new"), tree(tmp_path / "home" / "adapter", "old")
    wrong = manifest.Manifest(files={"a.json": manifest.Entry(size=1, sha256="0")})
    with pytest.raises(NotWhole):
        swap.bring_home(source, final, lambda copy: manifest.verify(copy, wrong))
    assert (final / "a.json").read_text() == "old"
    assert [path.name for path in final.parent.iterdir()] == ["adapter"]


def test_nothing_arrives_executable_and_files_work_as_folders_do(tmp_path):
    source = tmp_path / "end.json"
    source.write_text("{}")
    source.chmod(0o700)
    final = tmp_path / "home" / "end.json"
    for _ in range(2):
        swap.bring_home(source, final, lambda copy: manifest.verify(copy, manifest.make(source)))
    assert final.read_text() == "{}"
    assert not final.stat().st_mode & 0o111
