"""A LoRA adapter folder as PEFT writes it, and whether it belongs to a base."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from train.errors import InputError
from train.weights import Tensor, read_header, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

TO_SAFETENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file({k: v.contiguous().clone() for k, v in torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
    ".items()}, sys.argv[2], {'format': 'pt'})"
)
"""Python that turns the torch file of its first argument into the safetensors file of its second."""

_FACTOR = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.[^.]+)*$")
_LAYER = re.compile(r"(?:^|\.)(?P<tail>[^.]+\.(?P<layer>\d+)\..+)$")


@dataclass(frozen=True)
class Lora:
    """An adapter's configuration and the tensors that its header names. `r` is the configuration's."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def r(self) -> int:
        return int(self.config["r"])

    @property
    def dropout(self) -> float:
        return float(self.config.get("lora_dropout") or 0.0)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The last names of the modules that have factors, such as q_proj."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.factors()}))

    @property
    def trainable_parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def bytes_on_disk(self) -> int:
        return (self.folder / WEIGHTS).stat().st_size

    def factors(self) -> dict[str, dict[str, Tensor]]:
        """`{module: {"A": Tensor, "B": Tensor}}`; for a linear layer A is (r, in) and B is (out, r)."""
        found: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in self.tensors.items():
            if match := _FACTOR.match(name):
                found[match["module"]][match["side"]] = tensor
        return dict(found)


def read_lora(folder: Path) -> Lora:
    """The adapter in a folder.

    Raises:
        InputError: files are missing or damaged, it is another kind of adapter, or it changes lm_head.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: no {CONFIG}, so this is no adapter.", next_step="name its folder with --adapter.")
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"{folder}: the adapter is of type {kind}, and only LORA can be trained on.",
            next_step="merge it into its base (PEFT's merge_and_unload), and name that with --model FOLDER.",
        )
    if type(config.get("r")) is not int or config["r"] < 1:
        raise InputError(
            f"{folder / CONFIG}: r is {config.get('r')!r}, not a positive integer.",
            next_step=f"copy {CONFIG} and {WEIGHTS} from their source again.",
        )
    lora = Lora(folder, config, read_header(folder / WEIGHTS))
    factors = lora.factors()
    halves = [module for module, pair in factors.items() if len(pair) != 2]
    if not factors or halves:
        what = f"{halves[0]} has only one of its two factors" if halves else "it holds no LoRA factors"
        raise InputError(
            f"{folder / WEIGHTS}: {what}.", next_step=f"copy {CONFIG} and {WEIGHTS} from their source again."
        )
    targets = config.get("target_modules")
    if "lm_head" in lora.target_modules or (isinstance(targets, list) and "lm_head" in targets):
        raise InputError(
            f"{folder}: the adapter changes lm_head.",
            "DPO reads lm_head.weight directly, so that such an adapter would be ignored and never trained.",
            "merge it with `model.merge_and_unload()` and give the merged folder as --model.",
        )
    return lora


def check_belongs(lora: Lora, base: Path, weights: dict[str, Tensor]) -> None:
    """Compares the factors with the weights that they change, by shape and by layer.

    Raises:
        InputError: the adapter was trained on another model.
    """
    shapes = _by_tail(weights)

    def foreign(why: str) -> NoReturn:
        raise InputError(
            f"The adapter {lora.folder} does not belong to the base {base}.",
            why,
            "name the model that it was trained on with --base.",
        )

    layers: dict[str, set[int]] = defaultdict(set)
    for module, pair in lora.factors().items():
        tail, layer = _tail(f"{module}.weight")
        a, b = pair["A"].shape, pair["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            foreign(f"The factors of {module} have the shapes {a} and {b}, which do not multiply.")
        if not lora.config.get("rank_pattern") and lora.r != a[0]:
            foreign(f"{CONFIG} says r = {lora.r}, and the factors of {module} have the rank {a[0]}.")
        known = shapes.get(tail)
        if known is None:
            foreign(f"It changes {module}, which the base does not have.")
        fitting = {(b[0], a[1]), (a[1], b[0])}
        if not known & fitting:
            foreign(f"{module}: the adapter is for a weight of {b[0]} x {a[1]}, the base's is {_product(known)}.")
        if layer is not None:
            layers[tail.split(".", 2)[2]].add(layer)
    if isinstance(lora.config.get("target_modules"), list) and lora.config.get("layers_to_transform") is None:
        for rest, found in layers.items():
            depth = {layer for name in shapes for at, layer in (_tail(name),) if at.split(".", 2)[2:] == [rest]}
            if len(found) < len(depth):
                foreign(f"It changes {rest} in {len(found)} layers, the base has {len(depth)}.")


def _tail(name: str) -> tuple[str, int | None]:
    """A name from its list of layers on, since files of base and adapter differ in what stands before it."""
    match = _LAYER.search(name)
    return (match["tail"], int(match["layer"])) if match else (name, None)


def _by_tail(weights: dict[str, Tensor]) -> dict[str, set[tuple[int, ...]]]:
    shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name, tensor in weights.items():
        shapes[_tail(name)[0]].add(tensor.shape)
    return dict(shapes)


def _product(shapes: set[tuple[int, ...]]) -> str:
    return " or ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
