from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import manifest
from artifacts.errors import NotWhole


def fill(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_what_was_written_verifies_and_reads_back(tmp_path):
    fill(tmp_path, {"a.json": b"1", "deep/er/b.bin": b"22", ".working": b"3"})
    made = manifest.make(tmp_path)
    assert list(made.files) == ["a.json", "deep/er/b.bin"]
    manifest.write(tmp_path, made)
    assert manifest.read(tmp_path) == made
    manifest.verify(tmp_path, made)
    assert '"schema": "manifest/1"' in (tmp_path / "manifest.json").read_text()


def test_names_choose_what_is_covered(tmp_path):
    fill(tmp_path, {"run.json": b"1", "adapter/x": b"2", "report.html": b"3"})
    assert set(manifest.make(tmp_path, ["run.json", "adapter"]).files) == {"run.json", "adapter/x"}


@given(content=st.binary(min_size=1, max_size=40), data=st.data())
def test_any_changed_byte_any_cut_and_any_loss_is_found(tmp_path_factory, content, data):
    root = tmp_path_factory.mktemp("m")
    fill(root, {"x": content})
    made = manifest.make(root)
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(changed), content[:place], content + b"0"):
        (root / "x").write_bytes(wrong)
        with pytest.raises(NotWhole, match="x has"):
            manifest.verify(root, made)
    (root / "x").unlink()
    assert manifest.differences(root, made) == ["x is missing"]


def test_a_torn_manifest_is_not_whole_and_none_is_none(tmp_path):
    assert manifest.read(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"schema": "manif')
    with pytest.raises(NotWhole, match="cannot be read"):
        manifest.read(tmp_path)
