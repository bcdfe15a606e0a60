"""The forms of Stage A, and what is refused before a weight is read. Files are written by hand, header and zeros."""

from __future__ import annotations

import json
import math
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import ModelRef
from train.errors import InputError
from train.stage_a import describe, identify
from train.weights import read_header

HIDDEN, VOCAB, LAYERS, R = 8, 16, 2, 2
Shapes = dict[str, tuple[int, ...]]


def safetensors(shapes: Shapes) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(at)


def base_shapes(layers: int = LAYERS, hidden: int = HIDDEN) -> Shapes:
    return {"model.embed_tokens.weight": (VOCAB, hidden), "lm_head.weight": (VOCAB, hidden)} | {
        f"model.layers.{layer}.self_attn.{name}.weight": (hidden, hidden)
        for layer in range(layers)
        for name in ("q_proj", "v_proj")
    }


def make_base(folder: Path, *, tokens: int = VOCAB) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB}))
    (folder / "model.safetensors").write_bytes(safetensors(base_shapes()))
    vocab = {f"t{token}": token for token in range(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    return folder


def lora_shapes(layers: int = LAYERS, hidden: int = HIDDEN, module: str = "self_attn.{}_proj") -> Shapes:
    return {
        f"base_model.model.model.layers.{layer}.{module.format(which)}.lora_{side}.weight": shape
        for layer in range(layers)
        for which in "qv"
        for side, shape in (("A", (R, hidden)), ("B", (hidden, R)))
    }


def make_adapter(folder: Path, base: str | None, shapes: Shapes | None = None, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": R, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(shapes or lora_shapes()))
    return folder


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "a\nb", "-dash"])
def test_full_model_and_adapter_over_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / name)
    adapter = make_adapter(tmp_path / f"{name} adapter", f"../{name}")
    assert identify(str(base)) == ModelRef(base=str(base))
    found = identify(str(adapter))
    assert Path(found.base).resolve() == base.resolve()
    assert found.adapter == str(adapter)
    monkeypatch.chdir(tmp_path)
    assert identify(name) == ModelRef(base=str(base))
    assert identify(str(adapter), base=name) == ModelRef(base=str(base), adapter=str(adapter))
    assert identify(name, adapter=str(adapter)) == ModelRef(base=str(base), adapter=str(adapter))


def test_the_base_is_found_from_the_working_folder_or_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "models" / "base")
    adapter = make_adapter(tmp_path / "elsewhere" / "adapter", "models/base", revision="v2")
    assert identify(str(adapter)) == ModelRef(base="models/base", base_revision="v2", adapter=str(adapter))
    monkeypatch.chdir(tmp_path)
    assert identify(str(adapter)) == ModelRef(base=str(base), adapter=str(adapter))
    assert identify("org/model-8B") == ModelRef(base="org/model-8B")


def test_weights_beside_an_adapter_are_refused_until_someone_says_which(tmp_path: Path) -> None:
    both = make_adapter(make_base(tmp_path / "it's both"), "org/base")
    with pytest.raises(InputError, match="two ways") as caught:
        identify(str(both))
    quoted = shlex.quote(str(both))
    assert f"--model {quoted} --adapter {quoted}" in caught.value.next_step
    assert f"--model {quoted} --adapter none" in caught.value.next_step
    assert identify(str(both), base=str(both), adapter=str(both)) == ModelRef(base=str(both), adapter=str(both))
    assert identify(str(both), adapter=str(both)) == ModelRef(base=str(both), adapter=str(both))
    assert identify(str(both), adapter="none") == ModelRef(base=str(both))
    other = make_base(tmp_path / "other")
    assert identify(str(both), base=str(other)) == ModelRef(base=str(other), adapter=str(both))


def test_an_adapter_over_a_folder_that_is_itself_ambiguous_wants_the_base_named(tmp_path: Path) -> None:
    both = make_adapter(make_base(tmp_path / "both"), None)
    adapter = make_adapter(tmp_path / "adapter", str(both))
    with pytest.raises(InputError, match="base of the adapter"):
        identify(str(adapter))
    assert identify(str(adapter), base=str(both)).base == str(both)


def test_description_counts_what_the_headers_say(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    found = describe(identify(str(make_adapter(tmp_path / "adapter", str(base)))))
    assert found.architecture == "LlamaForCausalLM"
    assert found.parameters == 2 * VOCAB * HIDDEN + 2 * LAYERS * HIDDEN * HIDDEN
    assert found.adapter is not None
    assert found.adapter.trainable_parameters == 2 * LAYERS * 2 * R * HIDDEN
    assert (found.adapter.r, found.adapter.target_modules) == (R, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("shapes", "config", "reason"),
    [
        (lora_shapes(hidden=HIDDEN * 2), {}, "does not belong"),
        (lora_shapes(layers=LAYERS + 1), {}, "does not have"),
        (lora_shapes(layers=LAYERS - 1), {}, "in 1 layers, the base has 2"),
        (lora_shapes(module="mlp.{}_proj"), {}, "does not have"),
        (None, {"r": R + 1}, "says r = 3"),
        (None, {"r": "many"}, "not a positive integer"),
        (None, {"peft_type": "IA3"}, "type IA3"),
        (None, {"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"something.weight": (2,)}, {}, "no LoRA factors"),
        ({"base_model.model.model.layers.0.q_proj.lora_A.weight": (2, 8)}, {}, "only one of its two"),
    ],
)
def test_adapters_that_cannot_be_used(
    tmp_path: Path, shapes: Shapes | None, config: dict[str, object], reason: str
) -> None:
    base = make_base(tmp_path / "base")
    with pytest.raises(InputError, match=reason):
        identify(str(make_adapter(tmp_path / "adapter", str(base), shapes, **config)))


def test_modules_to_save_are_allowed(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    shapes = lora_shapes() | {"base_model.model.lm_head.weight": (VOCAB, HIDDEN)}
    assert identify(str(make_adapter(tmp_path / "adapter", str(base), shapes, modules_to_save=["lm_head"]))).adapter


@pytest.mark.parametrize("base", [None, "/nowhere/base", "../gone"])
def test_an_adapter_whose_base_is_missing(tmp_path: Path, base: str | None) -> None:
    with pytest.raises(InputError, match="base of the adapter") as caught:
        identify(str(make_adapter(tmp_path / "adapter", base)))
    assert "--base" in caught.value.next_step


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    base = make_base(tmp_path / "base")
    for place, reason in (("empty", "is empty"), ("absent", "no folder"), ("base/model.safetensors", "is a file")):
        with pytest.raises(InputError, match=reason):
            identify(str(tmp_path / place))
    for file, reason in (("tokenizer.json", "no tokenizer"), ("config.json", "no config.json")):
        (base / file).unlink()
        with pytest.raises(InputError, match=reason):
            identify(str(base))


def test_a_tokenizer_with_more_tokens_than_the_model_embeds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not belong") as caught:
        identify(str(make_base(tmp_path / "base", tokens=VOCAB + 1)))
    assert "17 tokens, the model embeds 16" in str(caught.value)


@pytest.mark.parametrize("adapter", [False, True])
def test_torch_files_are_refused_with_the_command_that_converts_them(tmp_path: Path, *, adapter: bool) -> None:
    folder = make_base(tmp_path / "it's base")
    if adapter:
        folder = make_adapter(tmp_path / "an adapter", str(folder))
    name = "adapter_model" if adapter else "model"
    (folder / f"{name}.safetensors").rename(folder / (f"{name}.bin" if adapter else "pytorch_model.bin"))
    with pytest.raises(InputError, match="torch's own format") as caught:
        identify(str(folder))
    assert shlex.split(caught.value.next_step)[-1] == str(folder / f"{name}.safetensors")


def test_missing_and_lying_shards(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    index = base / "model.safetensors.index.json"
    names = dict.fromkeys(base_shapes(), "model-1.safetensors")
    index.write_text(json.dumps({"weight_map": names}))
    assert identify(str(base)).base == str(base)
    for extra, reason in (
        ({"x": "model-2.safetensors"}, "missing: model-2"),
        ({"x": "model-1.safetensors"}, "do not hold"),
        ({"x": "../model-1.safetensors"}, "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": names | extra}))
        with pytest.raises(InputError, match=reason):
            identify(str(base))


WHOLE = safetensors({"a": (2, 3), "b": (4,)})


@given(size=st.integers(0, len(WHOLE) - 1))
def test_any_truncation_is_an_input_error(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(WHOLE[:size])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_header(path)


@given(length=st.integers(0, 2**64 - 1).filter(lambda length: length != int.from_bytes(WHOLE[:8], "little")))
def test_any_other_length_is_an_input_error(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "length.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + WHOLE[8:])
    with pytest.raises(InputError):
        read_header(path)


@given(header=st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "w"]), inner, max_size=4),
).map(lambda value: json.dumps({"w": value}).encode()))  # fmt: skip
def test_no_header_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, header: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with suppress(InputError):
        assert isinstance(read_header(path), dict)
