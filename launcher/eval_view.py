"""An `eval/1` document as a table: Stage A against Stage B, with intervals."""

from __future__ import annotations

from typing import Any

LABELS = {
    "hallucinated_summaries": "summaries with a wrong fact",
    "hallucinated": "wrong",
    "omitted_facts": "facts left out",
    "omitted": "left out",
    "loss": "DPO loss",
    "reward_accuracy": "chosen preferred",
    "margin": "reward margin",
    "unsupported_terms": "unsupported terms (proxy)",
}


def lines(document: dict[str, Any]) -> list[str]:
    """Rows of the comparison; rates in percent with their 95% Wilson intervals."""
    rows: list[tuple[str, str, str, str]] = [("", "STAGE A", "STAGE B", "N")]
    proxy = False
    for measure in document["measures"]:
        label = LABELS.get(measure["name"], measure["name"].replace("_", " "))
        if measure.get("fact"):
            label = f"  {label}: {measure['fact']}"
        proxy = proxy or measure["kind"] == "proxy"
        a, b = measure["stage_a"], measure["stage_b"]
        known = b if b is not None else a
        rows.append((str(label), _value(measure, a), _value(measure, b), f"{known['n']:,}" if known else ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 4))]).rstrip() for row in rows
    ]
    notes = ["Rates with 95% Wilson intervals (by note), on held-out data; same sampling seeds."]
    if proxy:
        notes.append(
            "The proxy counts numbers, doses and names in a summary that its source does not contain: it needs no "
            "labels, and it is no measure of truth."
        )
    return [*table, "", *notes]


def _value(measure: dict[str, Any], value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    low, high = value.get("low"), value.get("high")
    if measure["kind"] == "mean":
        return f"{value['value']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")
    text = f"{value['value']:.1%}"
    return text + (f" ({low:.1%} to {high:.1%})" if low is not None and high is not None else "")
