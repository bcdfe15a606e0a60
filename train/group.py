# pyright: basic, reportMissingImports=false
"""What the processes of a data-parallel run tell each other. A run in one process is a group of one.

Gradients travel as one flat sum a step: an adapter's are some 30 MB, so that there is nothing to gain from sending
parts of them earlier, and the order of additions is the same after a resume (docs/decisions/007-data-parallel.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from train.ranks import Place

TIMEOUT = timedelta(minutes=30)
"""For a process that hangs. One that ended is noticed at once, by the first process."""

T = TypeVar("T")


class Group:
    """The processes of a run. Each method is called by all of them, in the same order."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, place: Place, device: str) -> Group:
        """Meets the others. Small things are told on the CPU (gloo), gradients are added up where they are."""
        if place.size == 1:
            return cls()
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        how = {"rank": place.rank, "world_size": place.size, "timeout": TIMEOUT}
        if place.elastic:
            dist.init_process_group(backend, init_method="env://", **how)
        else:
            listening = {} if place.listener is None else {"master_listen_fd": place.listener.detach()}
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(
                host, port, place.size, is_master=place.rank == 0, timeout=TIMEOUT, wait_for_workers=False, **listening
            )
            dist.init_process_group(backend, store=store, **how)
        return cls(place.rank, place.size)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0

    def same(self, value: T) -> T:
        """The first process's `value`, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        found: list[T] = [value] * self.size
        dist.all_gather_object(found, value)
        return found

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Makes `tensors` those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def add_up_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Makes each gradient the sum of all processes'. One that no process has stays None."""
        if self.size == 1:
            return
        parameters = list(parameters)
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
        flat = torch.cat([has, *parts])
        dist.all_reduce(flat)
        found, *sums = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, anyone, total in zip(parameters, found.tolist(), sums, strict=True):
            if anyone:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def close(self) -> None:
        """Parts from the others. What follows is the first's alone."""
        if self.size > 1:
            dist.destroy_process_group()
