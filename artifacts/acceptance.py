"""What may come home: names and contents that nothing executes or unpickles. What comes is data, never trusted."""

from __future__ import annotations

import json
import struct
from pathlib import Path, PurePosixPath
from typing import Any, cast

from artifacts.errors import NotWhole

# tokenizer.model is a protobuf; .jinja is a chat template, which transformers renders in a sandbox.
ALLOWED_SUFFIXES = frozenset({".json", ".jsonl", ".safetensors", ".txt", ".md", ".log", ".jinja", ".model"})
# Pickles (protocol 2 and newer), zip archives (torch.save), ELF, scripts.
_FORBIDDEN_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x7fELF", b"#!")
_HEADER_LIMIT = 100_000_000  # as the safetensors library has it
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip


def accept(root: Path) -> None:
    """Checks a file or all of a folder. Raises NotWhole with the first thing that may not come home."""
    if root.is_symlink():
        raise _refused(root, "it is a symbolic link")
    if root.is_file():
        _accept_file(root)
        return
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise _refused(path, "it is a symbolic link")
        if path.is_file():
            _accept_file(path)
        elif not path.is_dir():
            raise _refused(path, "it is neither a file nor a folder")


def accept_name(name: str) -> None:
    """Checks a relative path that another host named. Raises NotWhole where it leads outside or is not allowed."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise _refused(name, "its path leads outside of the folder")
    if path.suffix not in ALLOWED_SUFFIXES:
        raise _refused(name, f"files that end in {path.suffix or 'nothing'} are not taken")


def _accept_file(path: Path) -> None:
    accept_name(path.name)
    accept_content(path, path.name)


def accept_content(path: Path, name: str) -> None:
    """Checks the file at `path` as one that will be called `name`. Raises NotWhole."""
    with path.open("rb") as file:
        start = file.read(8)
    if name.endswith(".safetensors"):
        check_safetensors(path)
    elif start.startswith(_FORBIDDEN_STARTS):
        raise _refused(path, "its content is a program, an archive or a pickle")


def check_safetensors(path: Path) -> None:
    """Checks the header against the file: every tensor inside, as long as its shape says, together all of the file.

    Format: 8 bytes little-endian header length, JSON header, data (safetensors' README).
    Raises NotWhole, e.g. for a file that was cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(_HEADER_LIMIT, size - 8):
            raise _refused(path, "it is not a whole safetensors file: its header is cut off")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            spans = sorted(_span(tensor) for name, tensor in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _refused(path, f"its safetensors header is wrong: {error}") from error
    end = 0
    for begin, until in spans:
        if begin != end:
            raise _refused(path, "its safetensors header leaves a gap or an overlap")
        end = until
    if end != size - 8 - length:
        raise _refused(path, f"it has {size - 8 - length} bytes of tensors, its header says {end}")


def _span(tensor: dict[str, Any]) -> tuple[int, int]:
    begin, end = cast("list[int]", tensor["data_offsets"])
    bits = _DTYPE_BITS[tensor["dtype"]]
    for extent in cast("list[int]", tensor["shape"]):
        bits *= extent
    if begin < 0 or (end - begin) * 8 != bits:
        raise ValueError("a tensor's size does not fit its shape")
    return begin, end


def _refused(path: Path | str, why: str) -> NotWhole:
    return NotWhole(f"{path} is not taken over", why=why)
