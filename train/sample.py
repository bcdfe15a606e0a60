# pyright: basic, reportMissingImports=false
"""Samples completions from one policy: the same seeds for every policy, in batches of alike lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from train.pairs import Text

BATCH = 64


def prompt_ids(tokenizer: Any, prompt: Text) -> list[int]:
    """What the policy reads before its completion, as in training."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    messages = [dict(message) for message in prompt]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    say: Callable[[int], None],
) -> list[str]:
    """One completion a prompt (token ids), in the order of `prompts`. `say` is told how many are done."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    settings = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=max_new_tokens,
        pad_token_id=pad, eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    texts = [""] * len(prompts)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        width = max(len(prompts[index]) for index in part)
        ids = torch.tensor([[pad] * (width - len(prompts[index])) + prompts[index] for index in part])
        mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in part])
        torch.manual_seed(seed + start)
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
        decoded = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        for index, text in zip(part, decoded, strict=True):
            texts[index] = text
        say(len(part))
    return texts


@torch.no_grad()
def completion_logp(model: Any, prompt: list[int], completion: list[int]) -> float:
    """The sum of log-probabilities (nats) of a completion after its prompt, in fp32."""
    ids = torch.tensor([prompt + completion], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    wanted = ids[0, len(prompt) :].unsqueeze(-1)
    return float(torch.log_softmax(logits, dim=-1).gather(-1, wanted).sum())
