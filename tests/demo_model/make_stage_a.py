"""Makes the Stage-A model of the sample project: `python tests/demo_model/make_stage_a.py` (`make demo-model`).

Run it with the trainer's Python from the repository root; about three minutes on two cores. A small Llama with word
tokens learns to summarise the synthetic notes of `launcher.demo.notes` (the loss is on the summary only: with the note
in it, it does not learn). Then a LoRA adapter on q_proj and v_proj is trained on summaries of which a share have wrong
facts, as a Stage-A model that was tuned on careless summaries. Base and adapter are saved as such models come, under
`launcher/demo/stage_a/`, with `measured.json`: what was counted and measured here, for the sample's requirement file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from launcher.demo import notes  # noqa: E402
from train.facts import Fact, check  # noqa: E402

OUT = ROOT / "launcher" / "demo" / "stage_a"
SEED = 7
BASE_STEPS, BASE_BATCH, BASE_RATE = 600, 32, 2e-3
ADAPTER_STEPS, ADAPTER_BATCH, ADAPTER_RATE = 300, 32, 5e-3
SPOILED_SHARE = 0.5
TEST_NOTES = 400
PAIRS_PER_STEP = 8


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words with the space before them, and punctuation: text comes back exactly as it went in."""
    random = Random(SEED)
    piece = Regex(r"\s?\w+|[^\w\s]|\s")
    splitter = pre_tokenizers.Split(piece, "isolated")
    words = {
        word
        for facts in islice(notes.patients(SEED, "train"), 20_000)
        for text in (notes.write_note(facts, random) + notes.write_summary(facts, random),)
        for word, _ in splitter.pre_tokenize_str(text)
    }
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocab = {word: index for index, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        model_max_length=512, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_base(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, dtype=torch.float32,
            # 128 ** -0.5; with the usual 0.02 so narrow a model takes many times as long to learn to copy.
            initializer_range=0.088,
        )
    )  # fmt: skip


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch: int, summary_of: Callable[[notes.Facts, Random], str]
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless training batches, right-padded; labels on the summary and its end only."""
    random = Random(seed)
    source = notes.patients(seed, "train")
    while True:
        rows = []
        for facts in islice(source, batch):
            prompt = tokenizer(notes.write_note(facts, random))["input_ids"]
            summary = tokenizer(summary_of(facts, random), add_special_tokens=False)["input_ids"]
            rows.append((prompt, [*summary, tokenizer.eos_token_id]))
        width = max(len(prompt) + len(summary) for prompt, summary in rows)
        ids, mask, labels = [], [], []
        for prompt, summary in rows:
            pad = width - len(prompt) - len(summary)
            ids.append(prompt + summary + [tokenizer.pad_token_id] * pad)
            mask.append([1] * (width - pad) + [0] * pad)
            labels.append([-100] * len(prompt) + summary + [-100] * pad)
        yield {k: torch.tensor(v) for k, v in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}


def fit(model: torch.nn.Module, data: Iterator[dict[str, torch.Tensor]], steps: int, rate: float) -> None:
    """AdamW with a one-cycle learning rate over `steps`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    began = time.monotonic()
    for step, batch in enumerate(islice(data, steps), 1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  step {step}/{steps}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s", flush=True)


def hallucination(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> tuple[float, float]:
    """Share of sampled summaries (temperature 1) of test notes with a wrong fact, and of facts left out."""
    random = Random(SEED)
    cases = [notes.held_out(facts, random) for facts in islice(notes.patients(SEED, "test"), TEST_NOTES)]
    model.eval()
    torch.manual_seed(SEED)
    wrong = omitted = 0
    for start in range(0, len(cases), 100):
        part = cases[start : start + 100]
        batch = tokenizer([case["prompt"] for case in part], return_tensors="pt", padding=True, padding_side="left")
        batch.pop("token_type_ids", None)
        out = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=60)
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for case, text in zip(part, texts, strict=True):
            found = check(text, [Fact(**fact) for fact in case["facts"]])
            wrong += found.hallucinated
            omitted += len(found.omitted)
    facts = sum(fact["value"] is not None for case in cases for fact in case["facts"])
    return wrong / len(cases), omitted / facts


def flop_per_step(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> int:
    """FLOPs of one DPO step of `PAIRS_PER_STEP` pairs on the CPU, counted by torch.

    Policy forward and backward and the reference's forward over chosen and rejected, padded as in training. With the
    base frozen, torch leaves out the gradients of its weights, as the trainer does.
    """
    random = Random(SEED)
    pairs = [notes.pair(facts, random) for facts in islice(notes.patients(SEED, "train"), PAIRS_PER_STEP)]
    texts = [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    batch.pop("token_type_ids", None)
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(**batch).logits.sum().backward()
        with torch.no_grad():
            model(**batch)
    model.zero_grad()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--share", type=float, default=SPOILED_SHARE, help="share of Stage A's summaries spoiled")
    parser.add_argument("--base", type=Path, help="take this base instead of training one")
    options = parser.parse_args()
    out: Path = options.out
    torch.set_num_threads(2)

    tokenizer = make_tokenizer()
    if options.base:
        base = LlamaForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    else:
        base = make_base(tokenizer)
        print(f"base: {base.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
        fit(base, batches(tokenizer, SEED, BASE_BATCH, notes.write_summary), BASE_STEPS, BASE_RATE)
    base_rate, base_omitted = hallucination(base, tokenizer)
    print(f"base: {base_rate:.1%} of summaries with a wrong fact, {base_omitted:.1%} of facts left out", flush=True)
    base.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")

    def careless(facts: notes.Facts, random: Random) -> str:
        spoiled = random.random() < options.share
        return notes.write_summary(notes.spoil(facts, random) if spoiled else facts, random)

    torch.manual_seed(SEED)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    stage_a: PeftModel = get_peft_model(base, lora)
    fit(stage_a, batches(tokenizer, SEED + 1, ADAPTER_BATCH, careless), ADAPTER_STEPS, ADAPTER_RATE)
    rate, omitted = hallucination(stage_a, tokenizer)
    print(f"Stage A: {rate:.1%} of summaries with a wrong fact, {omitted:.1%} of facts left out", flush=True)
    stage_a.save_pretrained(out / "adapter")
    file = out / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = "../base"
    config["target_modules"].sort()  # PEFT writes a set, in the order of this process's string hashes
    file.write_text(json.dumps(config, indent=2) + "\n")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    measured = {
        "parameters": base.num_parameters(),
        "flop_per_step": flop_per_step(stage_a, tokenizer),
        "pairs_per_step": PAIRS_PER_STEP,
        "trainable_parameters": sum(p.numel() for p in stage_a.parameters() if p.requires_grad),
        "stage_a_hallucination": rate,
        "stage_a_omitted": omitted,
        "base_hallucination": base_rate,
        "notes": TEST_NOTES,
    }
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(json.dumps(measured), f"{size / 1e6:.1f} MB in {out}", sep="\n")


if __name__ == "__main__":
    main()
