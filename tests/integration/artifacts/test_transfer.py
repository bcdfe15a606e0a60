"""Uploads and downloads through a real sshd."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from artifacts import download, upload
from artifacts.errors import HostKeyChanged, LaunchError, NotWhole, Unreachable
from artifacts.host import RemoteHost, make_host_key
from artifacts.shell import Shell
from artifacts.upload import Hashes, Item, Sent
from tests.acceptance.waiting import until
from tests.integration.artifacts.conftest import Sshd

pytestmark = pytest.mark.filterwarnings("default")


def host_of(sshd: Sshd, host_key: str | None = None) -> RemoteHost:
    return RemoteHost("127.0.0.1", getpass.getuser(), sshd.key_file, host_key or sshd.host_key, sshd.port)


@pytest.fixture
def shell(sshd: Sshd) -> Iterator[Shell]:
    with Shell(host_of(sshd)) as opened:
        yield opened


def safetensors(size: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


class Sender:
    def __init__(self, shell: Shell, sshd: Sshd, here: Path) -> None:
        self.shell, self.sshd, self.here = shell, sshd, here
        self.said: list[tuple[int, int]] = []
        self.weights = here / "model 'a'.safetensors"
        self.weights.write_bytes(safetensors(8_000_000))
        self.pairs = here / "train.jsonl"
        self.pairs.write_text('{"prompt": "p"}\n' * 1000)
        self.parcel = {
            "inputs/base/model.safetensors": Item(self.weights),
            "inputs/train.jsonl": Item(self.pairs, compress=True),
            "work/metrics.jsonl": Item(self.pairs, compress=True, copy=True),
        }

    def heard(self, done: int, total: int) -> None:
        self.said.append((done, total))

    def send(self, say: upload.Say | None = None) -> Sent:
        return upload.send(
            self.shell, self.parcel, root=str(self.sshd.root), job="dpo-1", hashes=Hashes(self.here / "hashes.json"),
            staging=self.here / "staging", say=say or self.heard,
        )  # fmt: skip

    @property
    def job(self) -> Path:
        return self.sshd.root / "jobs/dpo-1"


@pytest.fixture
def sender(shell: Shell, sshd: Sshd, tmp_path: Path) -> Sender:
    (tmp_path / "here").mkdir()
    return Sender(shell, sshd, tmp_path / "here")


def test_a_command_says_its_status_and_both_its_outputs(shell: Shell) -> None:
    said = shell.run("cat; echo wrong >&2; exit 3", stdin="a\nb\n")
    assert (said.status, said.out, said.err) == (3, "a\nb\n", "wrong\n")


def test_another_host_key_is_never_talked_to(sshd: Sshd) -> None:
    with Shell(host_of(sshd, make_host_key()[1])) as shell, pytest.raises(HostKeyChanged, match="another host key"):
        shell.run("true")


def test_a_cut_connection_is_unreachable_and_the_next_call_connects_anew(shell: Shell, sshd: Sshd) -> None:
    begun = sshd.root / "begun"
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(shell.run, f"touch {shlex.quote(str(begun))}; exec sleep 60")
        until(begun.exists, "the command", seconds=30)
        sshd.connections()[0].kill()
        with pytest.raises(Unreachable):
            call.result(timeout=30)
    assert shell.run("true").status == 0


def test_what_is_sent_is_at_its_place_and_nothing_is_sent_twice(sender: Sender) -> None:
    sent = sender.send()
    assert (sent.files, sent.total_bytes) == (3, sent.sent_bytes)
    assert (sender.job / "inputs/base/model.safetensors").read_bytes() == sender.weights.read_bytes()
    assert (sender.job / "SYNCED").exists()
    assert sender.said[-1][1] == sent.total_bytes
    blob = next(path for path in (sender.sshd.root / "blobs").iterdir() if path.stat().st_size < 1e6)
    with (sender.job / "work/metrics.jsonl").open("a") as file:
        file.write("the trainer's own\n")
    assert blob.read_bytes() == sender.pairs.read_bytes(), "what the trainer writes into is a copy"
    assert sender.send().sent_bytes == 0


def test_an_upload_that_was_cut_goes_on_where_it_stopped(sender: Sender) -> None:
    part = sender.sshd.root / "incoming"
    part.mkdir(parents=True)
    sha256 = Hashes(sender.here / "other.json").of(sender.weights)[0]
    (part / sha256).write_bytes(sender.weights.read_bytes()[:4_000_000])
    sender.send()
    assert (sender.job / "inputs/base/model.safetensors").read_bytes() == sender.weights.read_bytes()


def test_a_marker_stands_only_when_all_is_there(sender: Sender) -> None:
    sender.send()
    sender.parcel["inputs/new.jsonl"] = Item(sender.here / "missing.jsonl")
    with pytest.raises(LaunchError, match="cannot be read"):
        sender.send()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (sender.here / "missing.jsonl").write_text("x" * 10)
    with pytest.raises(KeyboardInterrupt):
        sender.send(stop)
    assert not (sender.job / "SYNCED").exists()


@pytest.fixture
def adapter(sshd: Sshd) -> Path:
    folder = sshd.root / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(safetensors(3_000_000))
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_folder_comes_home_whole_and_the_older_one_is_replaced(shell: Shell, adapter: Path, tmp_path: Path) -> None:
    final = tmp_path / "home/adapter"
    final.mkdir(parents=True)
    (final / "old.json").write_text("{}")
    assert download.fetch(shell, str(adapter), final)
    assert {path.name: path.read_bytes() for path in final.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }
    assert [path.name for path in final.parent.iterdir()] == ["adapter"]
    assert not download.fetch(shell, str(adapter.with_name("none")), final.with_name("none"))


def _link(folder: Path) -> None:
    (folder / "passwd.txt").symlink_to("/etc/passwd")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")


def _program(folder: Path) -> None:
    (folder / "notes.txt").write_text("#!/bin/sh\n")


def _pickle(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"\x80\x04")


def _cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize("spoil", [_link, _fifo, _program, _pickle, _cut])
def test_what_a_hostile_machine_offers_is_not_taken_and_what_was_here_stands(
    shell: Shell, adapter: Path, tmp_path: Path, spoil
) -> None:
    final = tmp_path / "adapter"
    final.mkdir()
    (final / "good.json").write_text("{}")
    spoil(adapter)
    with pytest.raises(NotWhole):
        download.fetch(shell, str(adapter), final)
    assert [path.name for path in final.iterdir()] == ["good.json"]


def test_more_than_was_agreed_on_is_not_taken(shell: Shell, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(NotWhole, match="more than"):
        download.fetch(shell, str(adapter), tmp_path / "adapter", largest=1000)


def test_a_growing_file_is_followed_and_one_that_was_cut_back_is_read_again(
    shell: Shell, sshd: Sshd, tmp_path: Path
) -> None:
    there, here = sshd.root / "metrics.jsonl", tmp_path / "metrics.jsonl"
    assert download.follow(shell, str(there), here) == 0
    there.write_text("one\n")
    assert download.follow(shell, str(there), here) == 4
    with there.open("a") as file:
        file.write("two\n")
    assert download.follow(shell, str(there), here) == 4
    assert here.read_text() == "one\ntwo\n"
    there.write_text("1\n")
    download.follow(shell, str(there), here)
    assert here.read_text() == "1\n"


def test_a_machine_that_went_away_is_unreachable(sshd: Sshd, tmp_path: Path) -> None:
    with Shell(host_of(sshd)) as shell:
        shell.run("true")
        for process in [*sshd.connections(), psutil.Process(sshd.process.pid)]:
            process.kill()
        sshd.process.wait()
        with pytest.raises(Unreachable):
            shell.run("true")
