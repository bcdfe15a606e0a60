# pyright: basic
"""The shapes at which the benches of a DPO step take it, the FLOPs that it needs, and the lines of their tables."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from train.rows import Row

SHAPES: dict[str, list[tuple[int, int, int]]] = {
    "384/128/128": [(384, 128, 128)],
    "1500/300/300": [(1500, 300, 300)],
    "3000/400/400": [(3000, 400, 400)],
    # Medians of 67 visits, note against note with other numbers, in tokens of the BPE that visit_pairs.py trains.
    "aci_bench": [(1705, 668, 670)],
    # The sample project's first batch.
    "demo": [(34, 25, 28), (38, 30, 27), (34, 25, 25), (40, 27, 30), (38, 30, 26), (39, 30, 26), (37, 26, 27),
             (35, 30, 26)],
}  # fmt: skip
"""(prompt, chosen, rejected) tokens of the pairs of a batch."""
REFERENCE_SHARE = 0.5
"""Of a reference pass that a step counts, where it can be kept: as over two epochs."""


def rows_of(lengths: list[tuple[int, int, int]], vocabulary: int) -> list[Row]:
    draw = random.Random(0)
    parts = [[[draw.randrange(2, vocabulary) for _ in range(n)] for n in pair] for pair in lengths]
    return [Row(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected) for prompt, chosen, rejected in parts]


def needed_flop(sizes: Mapping[str, Any], lengths: list[tuple[int, int, int]]) -> float:
    """Of a step and half a reference pass: frozen weights are multiplied forward, and backward for their inputs.

    Tokens of the prompt once, and in the last layer for keys and values alone; attention's products are two forward
    and four backward, under the causal mask.
    """
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    grouped = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    keys_and_values = 2 * hidden * 2 * grouped
    a_layer = keys_and_values + 2 * hidden * (2 * hidden + 3 * sizes["intermediate_size"])
    a_label = 2 * hidden * sizes["vocab_size"]
    flop = 0.0
    for prompt, chosen, rejected in lengths:
        shared, labels = prompt - 1, chosen + rejected
        of_completions = sum(prompt * completion + completion**2 / 2 for completion in (chosen, rejected))
        product = 2 * hidden * ((layers - 1) * prompt**2 / 2 + layers * of_completions)
        weights = (shared + labels) * layers * a_layer - shared * (a_layer - keys_and_values) + labels * a_label
        flop += (weights + 2 * product) * (1 + REFERENCE_SHARE) + weights + 4 * product
    return flop


def row(shape: str, variant: str, dtype: str, took: float, peak: float | None) -> dict[str, Any]:
    peak = None if peak is None else round(peak)
    return {"shape": shape, "variant": variant, "dtype": dtype, "seconds_per_pair": round(took, 4), "peak_mib": peak}


HEADING = f"{'shape':<13} {'dtype':<5} {'variant':<16} {'s a pair':>9} {'reference':>9} {'x home':>7} {'limit':>7} MiB"


def show(rows: list[dict[str, Any]]) -> None:
    home, limit = (
        next(one["seconds_per_pair"] for one in rows if one["variant"] == name) for name in ("home_made", "limit")
    )
    for one in rows:
        took, peak = one["seconds_per_pair"], one["peak_mib"]
        reference = one.get("reference_seconds_per_pair") or ""
        print(
            f"{one['shape']:<13} {one['dtype']:<5} {one['variant']:<16} {took:>9.4f} {reference:>9} "
            f"{home / took:>7.2f} {limit / took:>7.0%} {'' if peak is None else peak:>7}",
            flush=True,
        )
