# pyright: basic, reportMissingImports=false
"""Stage A against a trained adapter on held-out data: `python -m train evaluate --config evalrun.json`.

Facts that are known are checked one by one in sampled summaries; preference pairs give loss, reward accuracy and
margin, and a proxy of what summaries bring in that their source does not say.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from train.config import EvalConfig
from train.errors import DataError, InputError
from train.facts import FactCheck, check
from train.held_out import Case, plain, read_cases
from train.intervals import clustered_wilson, mean_interval, wilson
from train.proxy import unsupported

Value = dict[str, float | int] | None
Policies = tuple[
    Callable[[], contextlib.AbstractContextManager[Any]], Callable[[], contextlib.AbstractContextManager[Any]]
]


def run(config: EvalConfig) -> int:
    """Writes `config.output` (`eval/1`) and returns the exit code 0.

    Raises:
        DataError: the test data is bad, or is not held out.
        InputError: a model or adapter that cannot be loaded.
    """
    cases = read_cases(config)
    tokenizer, model, policies = _load(config)
    with_facts = [case for case in cases if case.facts]
    measures = _facts(config, tokenizer, model, policies, with_facts) if with_facts else []
    if not with_facts:
        measures = _preferences(config, tokenizer, model, policies, cases)
    document = {"schema": "eval/1", "job": config.job, "examples": len(cases), "measures": measures}
    beside = config.output.with_name(f".{config.output.name}")
    beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(config.output)
    return 0


def _load(config: EvalConfig) -> tuple[Any, Any, Policies]:
    """Tokenizer, one base in memory, and what switches it to Stage A and to the trained adapter."""
    import torch
    from peft import PeftModel

    from train.model import load_stage_a

    if config.execution.threads is not None:
        torch.set_num_threads(config.execution.threads)
    stage_a = load_stage_a(config.model, config.execution, config.training)
    folder = str(config.trained_adapter)
    try:
        if stage_a.new_lora is None:
            model = stage_a.model
            model.load_adapter(folder, adapter_name="trained")
        else:
            model = PeftModel.from_pretrained(stage_a.model, folder, adapter_name="trained")
    except (OSError, ValueError, RuntimeError) as problem:
        raise InputError(
            f"The trained adapter in {folder} cannot be loaded", str(problem), "bring it home again: launch pull JOB"
        ) from problem
    model.eval()

    @contextlib.contextmanager
    def first() -> Iterator[None]:
        if stage_a.new_lora is not None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter("default")
            yield

    @contextlib.contextmanager
    def second() -> Iterator[None]:
        model.set_adapter("trained")
        yield

    return stage_a.tokenizer, model, (first, second)


def _samples(
    config: EvalConfig, tokenizer: Any, model: Any, policies: Policies, cases: Sequence[Case]
) -> tuple[list[str], list[str]]:
    """A summary of each case from Stage A, and one from the trained adapter."""
    from train.sample import prompt_ids, sample

    prompts = [prompt_ids(tokenizer, case.prompt) for case in cases]
    done, total = 0, 2 * len(prompts)

    def say(count: int) -> None:
        nonlocal done
        done += count
        print(f"sampled {done} of {total} summaries", file=sys.stderr, flush=True)

    texts: list[list[str]] = []
    for policy in policies:
        with policy():
            texts.append(
                sample(
                    model,
                    tokenizer,
                    prompts,
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    seed=config.seed,
                    say=say,
                )
            )
    return texts[0], texts[1]


def _facts(
    config: EvalConfig, tokenizer: Any, model: Any, policies: Policies, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    both = _samples(config, tokenizer, model, policies, cases)
    checks = [[check(text, case.facts) for text, case in zip(texts, cases, strict=True)] for texts in both]
    names = list(dict.fromkeys(fact.name for case in cases for fact in case.facts))

    def wrong(found: Sequence[FactCheck], name: str) -> Value:
        n = sum(any(fact.name == name for fact in case.facts) for case in cases)
        return _rate(sum(name in one.wrong for one in found), n)

    def omitted(found: Sequence[FactCheck], wanted: Sequence[str]) -> Value:
        return _pooled(
            [
                (
                    sum(name in wanted for name in one.omitted),
                    sum(fact.value is not None and fact.name in wanted for fact in case.facts),
                )
                for one, case in zip(found, cases, strict=True)
            ]
        )

    def measure(name: str, of: Callable[[Sequence[FactCheck]], Value], fact: str | None = None) -> dict[str, Any]:
        return _measure(name, "rate", of(checks[0]), of(checks[1]), fact)

    return [
        measure("hallucinated_summaries", lambda found: _rate(sum(one.hallucinated for one in found), len(found))),
        *(measure("hallucinated", lambda found, name=name: wrong(found, name), name) for name in names),
        measure("omitted_facts", lambda found: omitted(found, names)),
        *(measure("omitted", lambda found, name=name: omitted(found, [name]), name) for name in names),
    ]


def _preferences(
    config: EvalConfig, tokenizer: Any, model: Any, policies: Policies, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Loss, reward accuracy and margin against Stage A (which is its own reference: ln 2 and 0), then the proxy."""
    from train.tokens import prepare

    rows = prepare(config.test, tokenizer, config.training.max_length, limit=len(cases)).rows
    if not rows:
        raise DataError(
            f"{config.test} has no pair that can be evaluated at max_length {config.training.max_length}",
            next_step="name other held-out data with --test FILE",
        )
    logps: list[list[tuple[float, float]]] = []
    for policy in policies:
        with policy():
            logps.append([_logps(model, row) for row in rows])
    margins = [
        config.training.beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        for (ref_chosen, ref_rejected), (chosen, rejected) in zip(*logps, strict=True)
    ]
    both = _samples(config, tokenizer, model, policies, cases)
    listed = _listed(config.terms)

    def proxy(texts: Sequence[str]) -> Value:
        counts = [unsupported(text, plain(case.prompt), listed) for text, case in zip(texts, cases, strict=True)]
        return _pooled(counts)

    return [
        _measure("loss", "mean", None, _mean([math.log1p(math.exp(-m)) if m > -30 else -m for m in margins])),
        _measure("reward_accuracy", "rate", None, _rate(sum(margin > 0 for margin in margins), len(margins))),
        _measure("margin", "mean", None, _mean(margins)),
        _measure("unsupported_terms", "proxy", proxy(both[0]), proxy(both[1])),
    ]


def _logps(model: Any, row: Any) -> tuple[float, float]:
    from train.sample import completion_logp

    prompt = row["prompt_ids"]
    return completion_logp(model, prompt, row["chosen_ids"]), completion_logp(model, prompt, row["rejected_ids"])


def _listed(path: Path | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        return frozenset(line.strip().casefold() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(
            f"The list of terms {path} cannot be read", str(problem), "name a text file of one term a line"
        ) from problem


def _measure(name: str, kind: str, stage_a: Value, stage_b: Value, fact: str | None = None) -> dict[str, Any]:
    return {"name": name, "kind": kind, "fact": fact, "stage_a": stage_a, "stage_b": stage_b}


def _rate(count: int, n: int) -> Value:
    if n == 0:
        return None
    low, high = wilson(count, n)
    return {"value": count / n, "low": low, "high": high, "n": n}


def _pooled(counts: Sequence[tuple[int, int]]) -> Value:
    """A share over all notes together, (how many, of how many) a note, whose interval knows that notes differ."""
    count, n = sum(each for each, _ in counts), sum(of for _, of in counts)
    if n == 0:
        return None
    low, high = clustered_wilson(counts)
    return {"value": count / n, "low": low, "high": high, "n": n}


def _mean(values: Sequence[float]) -> Value:
    value, low, high = mean_interval(values)
    return {"value": value, "low": low, "high": high, "n": len(values)}
