"""Pairs as token ids: what TRL itself makes of them, and what is left out, cut and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from train.check import run
from train.config import Data, ModelRef, RunConfig, Training
from train.errors import DataError, InputError
from train.rate import measure, solve
from train.tokenizer_match import check_belongs
from train.tokens import BATCH, load_tokenizer, prepare

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ODD = ["It is four.", " four</s>", "ﷺ 👩‍⚕️\u2028\u0000 ‰", "A much longer answer, with 12.5 mg and more words " * 4, "Q"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges letters, so that tokens merge across the end of a prompt too."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [*ODD, "What is two and two?"] * 3,
        trainers.BpeTrainer(
            vocab_size=400, show_progress=False, special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pair(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def strings() -> list[dict[str, Any]]:
    prompts = ["What is two and two?", "What is tw", "É\n\n", ODD[3]]
    return [pair(prompt, one, other) for prompt in prompts for one in ODD for other in ODD if one != other]


def chats() -> list[dict[str, Any]]:
    said = strings()
    return [
        pair(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": one["prompt"]}],
            [{"role": "assistant", "content": one["chosen"]}],
            [{"role": "assistant", "content": one["rejected"]}],
        )
        for one in said
    ]


def by_trl(records: list[dict[str, Any]], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    return list(DPOTrainer._prepare_dataset(trainer, Dataset.from_list(records), tokenizer, args, "train"))


@pytest.mark.parametrize("make", [strings, chats])
@pytest.mark.parametrize("max_length", [10_000, 90])
def test_rows_are_what_trl_prepares_and_its_collator_cuts(
    tmp_path: Path, tokenizer: Any, make: Any, max_length: int
) -> None:
    mine = prepare(write(tmp_path / "pairs.jsonl", make()), tokenizer, max_length)
    theirs = by_trl(make(), tokenizer, max_length)
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id, max_length=max_length)
    uncut = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def tensors(row: Any, collator: Any) -> str:
        keys = ("prompt_ids", "chosen_ids", "rejected_ids")
        return str({key: value.tolist() for key, value in collator([{k: row[k] for k in keys}]).items()})

    expected = [row for row in theirs if len({str(t) for t in _completions(row, max_length)}) == 2]
    assert [tensors(row, uncut) for row in mine.rows] == [tensors(row, collate) for row in expected]
    assert len(mine.rows) > 20
    assert all(len(row["prompt_ids"]) + len(row["chosen_ids"]) <= max_length for row in mine.rows)


def _completions(row: Any, max_length: int) -> list[list[int]]:
    room = max_length - len(row["prompt_ids"])
    return [row[key][:room] for key in ("chosen_ids", "rejected_ids")]


def test_every_pair_that_teaches_nothing_is_counted_by_reason_and_line(tmp_path: Path, tokenizer: Any) -> None:
    good = pair("a b c", "yes", "no")
    records = [
        good, good, pair("a b c", "no", "yes"), pair(" ", "yes", "no"), pair("a", "", "no"), pair("a", "yes", "yes"),
        pair("w " * 60, "yes", "no"), pair("a", "w " * 60 + "yes", "w " * 60 + "no"), pair("a", "w " * 60, "no"),
    ]  # fmt: skip
    found = prepare(write(tmp_path / "pairs.jsonl", records), tokenizer, 30)
    report = found.report
    assert {group.reason: group.lines for group in report.left_out} == {
        "empty_prompt": (4,), "empty_completion": (5,), "identical": (6,), "prompt_too_long": (7,),
        "equal_after_cut": (8,),
    }  # fmt: skip
    assert (report.pairs, report.usable, found.lines) == (9, 4, [1, 2, 3, 9])
    assert (report.duplicates, report.contradictions) == (1, 1)
    assert (report.truncated_pairs, report.truncated_chosen, report.truncated_rejected) == (1, 1, 0)
    assert report.refused is not None
    assert "5 of 9 pairs would teach nothing" in report.refused
    assert len(report.warnings) == 5 + 3


def test_shared_prompts_and_the_limit(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "pairs.jsonl", [pair(f"{n}", "yes", "no") for n in range(6)])
    train = prepare(path, tokenizer, 30, limit=2)
    assert train.report.refused is None
    assert prepare(path, tokenizer, 30, train_prompts=train.prompts).report.prompts_in_train == 2


LOOK = """
import sys
from train.config import ModelRef
from train.errors import DataError
from train.tokens import load_tokenizer, prepare
done = []
try:
    found = prepare(sys.argv[1], load_tokenizer(ModelRef(base=sys.argv[2])), 60, keep=False, on_pairs=done.append,
                    processes=int(sys.argv[3]))
    assert sum(done) == found.report.pairs
    print(found.lines, found.lengths, sorted(found.prompts), found.report.model_dump_json())
except DataError as problem:
    print(problem)
"""


def look(path: Path, model: Path, processes: int) -> str:
    """In a process of its own: this one has torch's threads, which no process may be forked from."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-c", LOOK, str(path), str(model), str(processes)]
    return subprocess.run(argv, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_several_processes_see_what_one_sees(tmp_path: Path, model: Path) -> None:
    """Batches of 256 pairs, repeats and empty ones among them, in the order of the file."""
    records = [
        pair(f"{one['prompt']} {n % 100}", one["chosen"], one["rejected"]) for n, one in enumerate(strings() * 14)
    ]
    records[300:300] = [pair(" ", "yes", "no"), pair("a", "yes", "yes")]
    assert len(records) > 3 * BATCH
    path = write(tmp_path / "pairs.jsonl", records)
    alone = look(path, model, 1)
    assert '"duplicates":0' not in alone
    assert look(path, model, 3) == alone
    bad = write(tmp_path / "bad.jsonl", [*records, *chats()[:1], pair([{"role": "tool", "content": "x"}], "yes", "no")])
    assert f"line {len(records) + 2}: the model's chat template refuses" in look(bad, model, 3)


def test_a_chat_that_the_template_refuses_is_named(tmp_path: Path, tokenizer: Any) -> None:
    tool = [{"role": "tool", "content": "x"}]
    path = write(tmp_path / "pairs.jsonl", [*chats()[:1], pair(tool, "yes", "no")])
    with pytest.raises(DataError, match="line 2: the model's chat template refuses") as caught:
        prepare(path, tokenizer, 30)
    assert "no tools" in str(caught.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("it's a model\n")
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=len(tokenizer),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_config(tmp_path: Path, model: Path, train: Path, val: Path | None = None) -> RunConfig:
    return RunConfig(
        job="check",
        model=ModelRef(base=str(model)),
        data=Data(train=train, val=val),
        training=Training(max_length=40),
        output_dir=tmp_path / "-out put",
        reference_cache=tmp_path / "cache",
    )


def test_check_prints_and_keeps_one_document(tmp_path: Path, model: Path, capsys: Any) -> None:
    train, val = write(tmp_path / "train.jsonl", strings()), write(tmp_path / "val.jsonl", strings()[:3])
    assert run(run_config(tmp_path, model, train, val)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "-out put" / "data.json").read_text())
    assert document["schema"] == "datacheck/1"
    assert document["train"]["schema"] == "datareport/1"
    assert document["val"]["prompts_in_train"] == document["val"]["usable"] > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no preference pair"), ("{\n", "line 1"), (json.dumps(pair("a", "b", "b")), "no pair can")],
)
def test_check_ends_with_2_and_writes_nothing_for_bad_data(
    tmp_path: Path, model: Path, capsys: Any, text: str, reason: str
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    assert run(run_config(tmp_path, model, path)) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.out == ""
    assert not (tmp_path / "-out put").exists()


def test_a_tokenizer_of_another_model_or_a_broken_one_is_refused(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    assert load_tokenizer(ModelRef(base=str(model))).eos_token == "</s>"
    LlamaForCausalLM(LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50,
    )).save_pretrained(tmp_path)  # fmt: skip
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not belong"):
        load_tokenizer(ModelRef(base=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(ModelRef(base=str(tmp_path)))


def test_an_adapters_tokenizer_may_add_tokens_and_move_none(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    adapter = tmp_path / "adapter"
    mine = deepcopy(tokenizer)
    mine.add_special_tokens({"pad_token": "<new>"})
    mine.save_pretrained(adapter)
    ref = ModelRef(base=str(model), adapter=str(adapter))
    config = SimpleNamespace(bos_token_id=0, eos_token_id=[1, 2])
    check_belongs(mine, str(adapter), ref, len(mine), config)
    file = adapter / "tokenizer.json"
    words = json.loads(file.read_text())
    one, other = list(words["model"]["vocab"])[20:22]
    words["model"]["vocab"] |= {one: words["model"]["vocab"][other], other: words["model"]["vocab"][one]}
    file.write_text(json.dumps(words))
    get_peft_model(LlamaForCausalLM.from_pretrained(model), LoraConfig(r=1, target_modules=["q_proj"])).save_pretrained(
        adapter
    )
    moved = PreTrainedTokenizerFast.from_pretrained(adapter)
    with pytest.raises(InputError, match="does not belong to the model") as caught:
        check_belongs(moved, str(adapter), ref, len(mine), config)
    assert "2 tokens have another id than in the tokenizer of" in str(caught.value)
    assert str(adapter) in str(caught.value)


def test_special_tokens_of_the_model_must_be_in_the_tokenizer(model: Path, tokenizer: Any) -> None:
    for eos in (len(tokenizer), [1, len(tokenizer)]):
        config = SimpleNamespace(bos_token_id=None, eos_token_id=eos)
        with pytest.raises(InputError, match="does not belong") as caught:
            check_belongs(tokenizer, "there", ModelRef(base="here"), 10**6, config)
        assert f"eos_token_id is {len(tokenizer)}" in str(caught.value)


def test_what_is_cut_what_keeps_whole_and_what_a_pair_costs(tmp_path: Path, tokenizer: Any) -> None:
    records = [pair("Q" * size, "Q" * 4, "Q" * 2) for size in (1, 3, 20, 40)]
    path = write(tmp_path / "pairs.jsonl", records)
    whole = prepare(path, tokenizer, 1000)
    longest = [len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in whole.rows]
    assert whole.report.whole_95 == whole.report.whole_99 == max(longest)
    assert (whole.report.lose_part, whole.report.lose_all) == (0, 0)
    # One token short for the longest: no other pair changes.
    assert prepare(path, tokenizer, max(longest)).report.lose_part == 0
    assert prepare(path, tokenizer, max(longest) - 1).report.lose_part == 1
    short = prepare(path, tokenizer, 10, keep=False)
    prompts = [len(row["prompt_ids"]) for row in whole.rows]
    assert short.report.lose_all == sum(size >= 10 for size in prompts) > 0
    assert short.rows == []
    kept = prepare(path, tokenizer, 10)
    assert kept.report == short.report
    sizes = [[len(row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")] for row in kept.rows]  # type: ignore[literal-required]
    trained = kept.report.trained
    assert trained is not None
    assert trained.shared == sum(map(sum, sizes)) / len(sizes)
    assert trained.separate == trained.shared + sum(size[0] for size in sizes) / len(sizes)
    bias = kept.report.length_bias
    assert bias is not None
    assert bias.mean == sum(size[1] - size[2] for size in sizes) / len(sizes) > 0
    assert bias.chosen_longer == len(sizes)


def test_progress_ends_at_the_last_pair_of_both_files(tmp_path: Path, model: Path, capsys: Any) -> None:
    train, val = write(tmp_path / "train.jsonl", strings()), write(tmp_path / "val.jsonl", strings()[:3])
    assert run(run_config(tmp_path, model, train, val), progress=True) == 0
    said = capsys.readouterr()
    total = len(strings()) + 3
    lines = [json.loads(line)["progress"] for line in said.err.splitlines()]
    assert lines == [{"done": done, "total": total, "of": "pairs"} for done in (len(strings()), total)]
    assert json.loads(said.out)["step"]["batch_size"] == 1


def test_an_adapters_own_tokenizer_is_taken_and_pads_with_eos_where_it_has_no_pad_token(
    tmp_path: Path, model: Path, tokenizer: Any
) -> None:
    """The folder has adapter files and no config.json, as PEFT writes it."""
    adapter = tmp_path / "adapter"
    tokenizer.save_pretrained(adapter)
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "</s>"}))
    lora = LoraConfig(r=1, target_modules=["q_proj"])
    get_peft_model(LlamaForCausalLM.from_pretrained(model), lora).save_pretrained(adapter)
    loaded = load_tokenizer(ModelRef(base=str(model), adapter=str(adapter)))
    assert loaded.bos_token == "</s>"
    assert loaded.pad_token_id == loaded.eos_token_id == tokenizer.eos_token_id


def test_the_rate_is_solved_from_two_steps() -> None:
    solved = solve(1e9, 0.01 + 1e9 / 5e10, 1e10, 0.01 + 1e10 / 5e10)
    assert solved["flop_per_s"] == pytest.approx(5e10)
    assert solved["step_overhead_s"] == pytest.approx(0.01)
    assert solve(1e9, 0.001, 1e10, 0.2) == {"flop_per_s": pytest.approx(5e10), "step_overhead_s": 0.0}


def test_this_machine_has_a_rate() -> None:
    document = measure("cpu")
    assert [row["precision"] for row in document["rows"]] == ["fp32", "bf16"]
    assert all(row["flop_per_s"] > 1e6 and row["step_overhead_s"] >= 0 for row in document["rows"])
    with pytest.raises(InputError, match="no device"):
        measure("tpu")
