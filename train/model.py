# pyright: basic, reportMissingImports=false
"""Stage A in memory: one copy of the base, Stage A's adapter (or none yet) over it, and its tokenizer."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerBase

from train.config import Execution, ModelRef, Training
from train.errors import InputError
from train.hub import fetched
from train.precision import DeviceFacts, choose
from train.reference import model_key
from train.tokens import load_tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_PROBE_LENGTH = 8


@dataclass(frozen=True)
class StageA:
    """Stage A as loaded. With `adapter`, `model` is a PeftModel whose adapter `default` is Stage A's, in fp32.

    Without, `model` is the full model, `new_lora` is what training puts on it, and `probe` are its logits on
    `probe_ids`, taken before anything was put on it.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    base: Path
    adapter: Path | None
    new_lora: LoraConfig | None
    precision: str
    quantization: str | None
    probe_ids: torch.Tensor | None
    probe: torch.Tensor | None
    key: str
    """Names Stage A by content, for the cache of reference log-probabilities."""


def load_stage_a(ref: ModelRef, execution: Execution, training: Training) -> StageA:
    """Loads Stage A for training. Raises InputError where the folders do not make a model."""
    device = resolve_device(execution)
    precision = resolve_precision(execution)
    ref = fetched(ref)
    base = Path(ref.base)
    adapter = Path(ref.adapter) if ref.adapter is not None else None
    _refuse_lm_head(adapter, training)
    tokenizer = load_tokenizer(ref)
    key = model_key(base, adapter, {"device": device, "precision": precision, "quantization": execution.quantization})
    model = load_base(base, precision, execution.quantization, device)
    new_lora, probe_ids, probe = None, None, None
    if adapter is None:
        new_lora = LoraConfig(
            r=training.lora_r,
            lora_alpha=training.lora_alpha or 2 * training.lora_r,
            target_modules=list(training.lora_target),
            task_type="CAUSAL_LM",
        )
        probe_ids = torch.arange(_PROBE_LENGTH, device=model.device).remainder(model.config.vocab_size).unsqueeze(0)
        probe = probe_logits(model, probe_ids)
    else:
        model = _put_on(model, adapter)
    return StageA(
        model=model, tokenizer=tokenizer, base=base, adapter=adapter, new_lora=new_lora, precision=precision,
        quantization=execution.quantization, probe_ids=probe_ids, probe=probe, key=key,
    )  # fmt: skip


def load_base(base: Path, precision: str, quantization: str | None, device: str) -> Any:
    """The model in `base`, without any adapter that lies in the same folder, in eval mode."""
    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if quantization is not None:
        options["quantization_config"] = _quantization(quantization, DTYPES[precision])
    if quantization is not None or device == "cuda":  # shards go straight there: the host never holds the whole model
        options["device_map"] = {"": 0 if device == "cuda" else "cpu"}
    try:
        with _without_adapter(base) as folder:
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except SafetensorError as problem:
        raise InputError(f"The weights in {base} cannot be read", str(problem), "copy the folder again") from problem
    except (OSError, ValueError, RuntimeError) as problem:
        raise InputError(f"{base} cannot be loaded as a model", str(problem), "check --model and --base") from problem
    model.name_or_path = model.config.name_or_path = str(base)
    if quantization == "nf4" and device == "cpu":
        # One eval-mode forward would repack the weights for inference, and gradients were None from then on.
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return model


def resolve_device(execution: Execution) -> str:
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise InputError("The run asks for a GPU, and torch sees none", "CUDA is not available", "use --device cpu")
    return execution.device


def resolve_precision(execution: Execution) -> str:
    """'bf16', 'fp16' or 'fp32': what was asked for, on what the device has."""
    capability = torch.cuda.get_device_capability() if execution.device == "cuda" else None
    return choose(execution.precision, DeviceFacts(execution.device, capability))


@torch.no_grad()
def probe_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits (length, vocabulary) on the CPU, for an equality check before and after something is put on a model."""
    return model(input_ids=ids, use_cache=False).logits[0].float().cpu()


def _quantization(kind: str, compute: torch.dtype) -> BitsAndBytesConfig:
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _put_on(model: Any, adapter: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(model, str(adapter), adapter_name="default", is_trainable=True)
    except SafetensorError as problem:
        raise InputError(f"The adapter in {adapter} cannot be read", str(problem), "copy the folder again") from problem
    except (RuntimeError, ValueError) as problem:
        raise InputError(
            f"The adapter in {adapter} does not fit the base", str(problem), "name the base it was trained on: --base"
        ) from problem


def _refuse_lm_head(adapter: Path | None, training: Training) -> None:
    targets = list(training.lora_target)
    if adapter is not None:
        targets = json.loads((adapter / "adapter_config.json").read_bytes()).get("target_modules") or []
    if "lm_head" in (targets if isinstance(targets, list) else [targets]):
        raise InputError(
            f"LoRA on lm_head cannot be trained{'' if adapter is None else f' ({adapter})'}",
            "log-probabilities are computed from the head's own weight, so that an adapter on it would be ignored",
            "leave lm_head out of the target modules, or keep it in modules_to_save",
        )


@contextlib.contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """The folder, or a view of it without adapter files: transformers applies those without being asked."""
    if not (folder / "adapter_config.json").exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="stage-a-") as name:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(name) / path.name).symlink_to(path.resolve())
        yield Path(name)
