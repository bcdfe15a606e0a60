from __future__ import annotations

import pytest

from artifacts.errors import UsageProblem
from jobs.home import Home
from jobs.lock import FileLock, is_held


def test_the_folder_and_the_database_come_from_the_environment(tmp_path):
    home = Home.from_environment({"LAUNCH_HOME": str(tmp_path / "a b")})
    assert home.root.is_dir()
    assert (home.database, home.database_file) == (None, tmp_path / "a b" / "launch.sqlite")
    team = Home.from_environment({"LAUNCH_HOME": str(tmp_path), "LAUNCH_DATABASE_URL": "postgresql+psycopg://h/d"})
    assert team.database == "postgresql+psycopg://h/d"


def test_without_a_word_it_is_the_platforms_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Home.from_environment({}).root == tmp_path / "launch"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageProblem, match="cannot be written") as caught:
        Home.from_environment({"LAUNCH_HOME": str(tmp_path / "file" / "in")})
    assert "LAUNCH_HOME" in str(caught.value)


def test_a_folder_that_pythonpath_would_read_as_two_is_refused_and_not_made(tmp_path):
    with pytest.raises(UsageProblem, match="':' in its path") as caught:
        Home.from_environment({"LAUNCH_HOME": str(tmp_path / "a:b")})
    assert "Next: set LAUNCH_HOME to a folder without ':'" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_lock_has_one_holder_and_asking_takes_nothing(tmp_path):
    path = tmp_path / "x.lock"
    assert not is_held(path)
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert is_held(path)
    assert not second.acquire()
    assert not second.acquire(wait_s=0.05)
    first.release()
    assert not is_held(path)
    assert second.acquire()
    second.release()
