"""The names and shapes of the tensors of a model folder, from the headers of its safetensors files.

Never a weight: a header is 8 bytes of length and a JSON object (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from train.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON.", str(error), f"copy {path.name} from its source again."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object.", next_step=f"copy {path.name} from its source again.")
    return cast("dict[str, Any]", value)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, checked against its size.

    Raises:
        InputError: the file cannot be read, is cut short, or its header contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _broken(path, f"it has {size:,} bytes, too few for its own header")
            if length > MAX_HEADER_BYTES:
                raise _broken(path, f"its header would be {length:,} bytes long, which the format does not allow")
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read.", str(error), "check the path and its permissions.") from error
    try:
        header: object = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is no JSON object")
    entries = {name: entry for name, entry in cast("dict[str, object]", header).items() if name != "__metadata__"}
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        tensors[name], begin = _tensor(path, name, entry)
        spans.append((begin, begin + tensors[name].nbytes))
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise _broken(path, f"its header leaves a hole or an overlap at byte {end:,} of the data")
        end = stop
    if 8 + length + end != size:
        raise _broken(path, f"it has {size:,} bytes, and its header says {8 + length + end:,}")
    return tensors


def _tensor(path: Path, name: str, entry: object) -> tuple[Tensor, int]:
    """A tensor and where its data begins."""
    fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _broken(path, f"its header does not describe the tensor {name!r}")
    begin, end = offsets
    tensor = Tensor(dtype, shape, end - begin)
    bits = _BITS.get(dtype)
    if end < begin or (bits is not None and tensor.elements * bits != tensor.nbytes * 8):
        raise _broken(path, f"the tensor {name!r} does not have the bytes that its shape needs")
    return tensor, begin


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of sizes, or None for anything else. No size is near 2^63, and no shape has 64 axes."""
    items = cast("list[Any]", value) if isinstance(value, list) else [None]
    fine = len(items) < 64 and all(type(item) is int and 0 <= item < 2**63 for item in items)
    return tuple(cast("list[int]", items)) if fine else None


def _broken(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: truncated or damaged.", f"{why[0].upper()}{why[1:]}.", f"copy or download {path.name} again."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model is loaded from: one, or the shards of its index; none where there are none.

    Raises:
        InputError: the index is broken or names a shard that is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        return []
    files = [folder / name for name in dict.fromkeys(_weight_map(index).values())]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(files)} weight files are missing: {', '.join(missing[:5])}.",
            f"{INDEX} names them.",
            "copy or download the missing files into the folder.",
        )
    return files


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder by name, over all of its shards.

    Raises:
        InputError: a file is missing or damaged, or the shards do not hold what the index says.
    """
    tensors: dict[str, Tensor] = {}
    held: dict[str, str] = {}
    for file in weight_files(folder):
        header = read_header(file)
        tensors |= header
        held |= dict.fromkeys(header, file.name)
    if not (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        wanted = _weight_map(folder / INDEX)
        absent = [name for name, shard in wanted.items() if held.get(name) != shard]
        if absent:
            raise InputError(
                f"{folder}: the shards do not hold what {INDEX} says.",
                f"{absent[0]!r} is not in {wanted[absent[0]]} ({len(absent):,} tensors are missing).",
                "copy or download all files of the model again.",
            )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    found: object = read_json(index).get("weight_map")
    names = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
        raise InputError(f"{index}: no usable weight_map.", next_step=f"copy {index.name} from its source again.")
    return cast("dict[str, str]", names)
