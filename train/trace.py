# pyright: basic, reportMissingImports=false
# ruff: noqa: SLF001  # TRL's loss is a method of its trainer, and torch keeps a module's tensors in private tables
"""The peak of live storage, and the FLOPs, of one step that runs on fake tensors: no weights and no GPU needed.

The loss is the method's (train/step.py; DPO's is TRL's own), on a PEFT model made from a configuration, by the same
code that trains (train/shared_prompt.py). Reference log-probabilities are inputs, as in training.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM, PretrainedConfig
from trl.trainer.utils import add_fused_lm_head

from train.config import Method, Training, noun
from train.errors import InputError
from train.kto import OTHERS
from train.last_layer import LastLayer
from train.shared_prompt import SharedPrompt, obstacle
from train.shared_row import SharedRow
from train.step import step_of
from train.trace_kernels import ATTENTION, attention_flop, quantize

METRICS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What the trainer asks of the fused head, for its loss and its metrics."""


@dataclass(frozen=True)
class Shape:
    """One micro-batch: `pairs` pairs with completions of one length, `length` tokens with the `prompt` before them.

    With a prompt of one token nothing is shared but it: no pair of `length` tokens needs more. A method whose examples
    are single completions has so many of these.
    """

    pairs: int
    length: int
    prompt: int = 1
    method: Method = "dpo"

    @property
    def completion(self) -> int:
        return self.length - self.prompt

    @property
    def completions(self) -> int:
        """Of an example."""
        return 2 if noun(self.method) == "pairs" else 1

    @property
    def sequences(self) -> int:
        return self.pairs * self.completions

    def looked_at(self, layers: int, *, shared: bool) -> int:
        """Pairs of a query and a key in a product of attention in all layers, without a causal mask's saving."""
        if not shared:
            return layers * self.sequences * self.length**2
        places = self.length - 1  # of a completion and what the two share of the prompt
        of_completion = self.completion * places
        behind = places if self.completions == 2 else places - self.completion  # the prompt, and rejected where it is
        last = behind**2 if self.method == "orpo" else (self.completions - 1) * of_completion
        return self.pairs * ((layers - 1) * (behind**2 + of_completion) + of_completion + last)


@dataclass(frozen=True)
class Recipe:
    """How the step runs: the model's dtype, autocast to it where it is not fp32, its weights, and checkpointing.

    `share_prompts`: each prompt is computed once, where the model can. `own_adapter`: Stage A is base and adapter, so
    that a frozen copy of the adapter is there as the reference. `lora_dropout` is for a method that trains with it.
    """

    dtype: torch.dtype
    gradient_checkpointing: bool = False
    quantization: Literal["nf4", "int8"] | None = None
    lora_r: int = 16
    lora_target: tuple[str, ...] = ("q_proj", "v_proj")
    lora_dropout: float = 0.0
    own_adapter: bool = False
    share_prompts: bool = True


@dataclass(frozen=True)
class Trace:
    """Bytes of live storage before the step and at its peak, FLOPs of the step and of its reference, the parameters.

    `attention_flop` is attention's part of both together, which grows with the square of the length.
    """

    resident_bytes: int
    peak_bytes: int
    flop: int
    forward_flop: int
    attention_flop: int
    base_parameters: int
    trainable_parameters: int


class LiveStorage(TorchDispatchMode):
    """Adds up the bytes of untyped storages that are alive, each once however many views it has, and the FLOPs.

    FLOPs are counted here and not by `FlopCounterMode`: its hooks on modules make reference cycles, in which
    checkpointed layers outlive their backward until the garbage collector runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.flop = 0
        self.forward_flop = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        weakref.finalize(storage, self._gone, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def mark(self) -> None:
        """The forward is over."""
        self.forward_flop = self.flop

    def _gone(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # a metric; its value is not in the trace
        if func is torch.ops.aten.index.Tensor:
            source, (mask, *_) = args
            if mask is not None and mask.dtype == torch.bool:
                # Only the metrics select by a mask. Every position is taken, which is the most that it can select.
                return source.reshape(-1, *source.shape[mask.dim() :]).clone()
        result = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        count = flop_registry.get(torch.ops.aten.mm if kind is torch.ops.aten._int_mm else kind)
        if count is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=result)
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result


def trace_step(config: PretrainedConfig, recipe: Recipe, shape: Shape) -> Trace:
    """Runs forward, backward and one AdamW step on fake CPU tensors; prompts are shared where the model can."""
    model = policy(config, recipe)
    shares = recipe.share_prompts and obstacle(model, shape.length) is None
    if shares:
        LastLayer(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialize(model)
        meter = LiveStorage()
        trainable, batch = trainable_of(model), inputs(shape)
        beside = [] if shares else [torch.empty((shape.sequences, 1, shape.length, shape.length), dtype=torch.bool)]
        for tensor in (*model.parameters(), *model.buffers(), *batch.values(), *beside):  # a mask, causal and padding
            meter.add(tensor)
        resident = meter.live
        with meter:
            row = row_of(shape) if shares else None
            step(model, trainable, batch, recipe, row, after_forward=meter.mark, method=shape.method)
    product = attention_flop(config, shape.looked_at(config.num_hidden_layers, shared=shares))
    of_method = step_of(shape.method, Training())
    # A step's forward makes the head's product for the gradient too (train/completion_head.py), others do not.
    head = model.get_base_model().get_output_embeddings()
    ahead = 2 * head.weight.numel() * row_of(shape).labelled.numel() if shares else 0
    products = (9 if recipe.gradient_checkpointing else 7) + 2 * (of_method.forwards - 1)
    passes = of_method.reference_passes
    return Trace(
        resident_bytes=resident,
        peak_bytes=meter.peak,
        flop=meter.flop + product * products,
        forward_flop=passes * ((meter.forward_flop - ahead) // of_method.forwards + product * 2),
        attention_flop=product * (products + 2 * passes),
        base_parameters=sum(count_of(p) for name, p in model.named_parameters() if ".lora_" not in name),
        trainable_parameters=sum(parameter.numel() for parameter in trainable),
    )


def trainable_of(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count_of(parameter: Any) -> int:
    """Elements that a parameter stands for; packed 4-bit weights stand for two a byte."""
    return getattr(parameter, "stands_for", None) or parameter.numel()


def row_of(shape: Shape, device: str = "cpu") -> SharedRow:
    lengths = (shape.prompt, shape.completion, shape.completion if shape.completions == 2 else None)
    return SharedRow([lengths] * shape.pairs, shape.length, device, prompts_labelled=shape.method == "orpo")


def step(
    model: Any,
    trainable: list[torch.nn.Parameter],
    batch: dict[str, torch.Tensor],
    recipe: Recipe,
    row: SharedRow | None = None,
    after_forward: Callable[[], None] = lambda: None,
    device: str = "cpu",
    method: Method = "dpo",
) -> None:
    """One optimizer step of what lies on `device`: the method's loss, backward, clipping, AdamW.

    The batch's prompts are shared in `row`; without it, the batch is padded.
    """
    optimizer = torch.optim.AdamW(trainable, foreach=False)
    with torch.autocast(device, dtype=recipe.dtype, enabled=recipe.dtype != torch.float32):
        seen = model if row is None else SharedPrompt(model, row)
        loss = step_of(method, Training()).loss(_trainer(model, seen, device), seen, batch)
    after_forward()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0, foreach=False)
    optimizer.step()


def policy(config: PretrainedConfig, recipe: Recipe, attention: str = ATTENTION) -> Any:
    """The policy on the meta device: frozen base, LoRA in fp32, TRL's fused head."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=recipe.dtype, attn_implementation=attention)
        add_fused_lm_head(base, outputs=METRICS)
        lora = LoraConfig(
            r=recipe.lora_r,
            target_modules=list(recipe.lora_target),
            lora_dropout=recipe.lora_dropout,
            task_type="CAUSAL_LM",
        )
        try:
            model = get_peft_model(base, lora)
        except ValueError as problem:
            names = ", ".join(sorted({name.rpartition(".")[2] for name, _ in base.named_modules()} - {""}))
            raise InputError(
                f"No module of the model is called {' or '.join(recipe.lora_target)}.", f"It has: {names}.",
                "name others with lora_target",
            ) from problem  # fmt: skip
        if recipe.own_adapter:
            model.add_adapter("ref", lora)
        if recipe.quantization is not None:
            quantize(model, recipe.quantization)
    for parameter in trainable_of(model):
        parameter.data = parameter.data.float()
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model


def materialize(model: Any) -> None:
    """Replaces meta parameters and buffers by CPU tensors of their shapes, fake in a fake mode; tied ones stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    data = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(data, requires_grad=parameter.requires_grad)
                    made[id(parameter)].stands_for = getattr(parameter, "stands_for", None)  # type: ignore[attr-defined]
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def inputs(shape: Shape) -> dict[str, torch.Tensor]:
    size = (shape.sequences, shape.length)
    completion = torch.zeros(size, dtype=torch.int64)
    completion[:, shape.prompt :] = 1
    found = {
        "input_ids": torch.ones(size, dtype=torch.int64),
        "attention_mask": torch.ones(size, dtype=torch.int64),
        "completion_mask": completion,
    }
    if shape.method == "dpo":
        return found | {name: torch.zeros(shape.pairs) for name in ("ref_chosen_logps", "ref_rejected_logps")}
    if shape.method == "kto":
        found |= {f"{OTHERS}{name}": value.clone() for name, value in found.items()}
        return found | {"label": torch.ones(shape.pairs, dtype=torch.bool), "ref_logps": torch.zeros(shape.pairs)}
    return found


def _trainer(model: Any, seen: Any, device: str) -> Any:
    """What a loss reads of its trainer: TRL's the settings that DPO is trained with by default, on one device."""
    accelerator = SimpleNamespace(
        device=torch.device(device), gather=_same, gather_for_metrics=_same, autocast=nullcontext
    )
    return SimpleNamespace(
        model=model, accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
        f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], beta=0.1, label_smoothing=0.0,
        use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
        seen=lambda _: seen, references=lambda inputs: torch.zeros((len(inputs["input_ids"]), 2)),
    )  # fmt: skip


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
