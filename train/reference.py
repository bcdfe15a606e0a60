"""Reference log-probabilities by content, on disk: nothing is computed twice, over epochs, runs and resumes.

One file a model key. A file is a series of frames, each written in one call under a lock:

    count (4 bytes), CRC-32 of the payload (4 bytes), payload: count x (SHA-256 of the pair, chosen, rejected)

with the two sums of log-probabilities (nats) as doubles, all little-endian. A frame is the pairs of one batch: it is
there as a whole or not at all, so that a killed run computes that batch again exactly as before. What follows the
last whole frame is cut off by the next writer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<32sdd")
_MAGIC = b"reflogps1\n"


class ReferenceCache:
    """(chosen, rejected) log-probabilities of pairs under one reference policy. Safe between processes."""

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key}.logps"
        self._known: dict[bytes, tuple[float, float]] = {}
        self._read_up_to = 0
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._read(descriptor)
        finally:
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> tuple[float, float] | None:
        return self._known.get(key)

    def put(self, found: Mapping[bytes, tuple[float, float]]) -> None:
        """Adds the pairs of one batch as one frame. A value that another process wrote first stays the value."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._read(descriptor)
            new = {key: values for key, values in found.items() if key not in self._known}
            if not new:
                return
            os.ftruncate(descriptor, self._read_up_to)  # a torn frame that a killed writer left
            payload = b"".join(_ENTRY.pack(key, *values) for key, values in new.items())
            frame = _HEAD.pack(len(new), zlib.crc32(payload)) + payload
            if self._read_up_to == 0:
                frame = _MAGIC + frame
            written = os.pwrite(descriptor, frame, self._read_up_to)
            if written != len(frame):
                raise OSError(28, "No space left on device", str(self.path))
            self._read_up_to += written
            self._known.update(new)
        finally:
            os.close(descriptor)

    def learn(self, found: Mapping[bytes, tuple[float, float]]) -> None:
        """Takes in pairs that another process of this run writes down."""
        for key, values in found.items():
            self._known.setdefault(key, values)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def _read(self, descriptor: int) -> None:
        """Takes in what others appended since the last look; stops at the first frame that is not whole."""
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, size - self._read_up_to, self._read_up_to) if size > self._read_up_to else b""
        at = 0
        if self._read_up_to == 0 and data.startswith(_MAGIC):
            at = len(_MAGIC)
        elif self._read_up_to == 0:
            return
        while at + _HEAD.size <= len(data):
            count, crc = _HEAD.unpack_from(data, at)
            payload = data[at + _HEAD.size : at + _HEAD.size + count * _ENTRY.size]
            if len(payload) != count * _ENTRY.size or zlib.crc32(payload) != crc or not count:
                break
            for key, chosen, rejected in _ENTRY.iter_unpack(payload):
                self._known.setdefault(key, (chosen, rejected))
            at += _HEAD.size + len(payload)
        self._read_up_to += at


def pair_key(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> bytes:
    """SHA-256 of the token ids of a pair as training sees it, that is, after the cut to `max_length`."""
    digest = hashlib.sha256()
    for ids in (prompt, chosen, rejected):
        digest.update(struct.pack(f"<I{len(ids)}I", len(ids), *ids))
    return digest.digest()


def model_key(base: Path, adapter: Path | None, how: Mapping[str, str | None]) -> str:
    """Names the reference policy: the content of the weights of Stage A, and how they are computed with.

    `how` holds what changes a log-probability beyond rounding: device, precision, quantization. Weights are hashed in
    full (about 2 GB/s a thread; loading reads them anyway): two fine-tunes of one model differ in nothing else.
    """
    files = [*_files(base, "*.safetensors", skip="adapter_model"), base / "config.json"]
    if adapter is not None:
        files += [adapter / "adapter_model.safetensors", adapter / "adapter_config.json"]
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(_sha256, files))
    digest = hashlib.sha256()
    for path, content in zip(files, digests, strict=True):
        digest.update(f"{path.name} {content}\n".encode())
    for name, value in sorted(how.items()):
        digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()[:32]


def _files(folder: Path, pattern: str, skip: str) -> Iterable[Path]:
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith(skip))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
