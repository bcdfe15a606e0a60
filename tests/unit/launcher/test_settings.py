"""Settings: flag, then variable, then launch.toml, then the user's file; every wrong value is named with its source."""

from pathlib import Path

import pytest

from artifacts.errors import UsageProblem
from launcher.settings import Settings, load


def settings(
    tmp_path: Path, toml: str | None = None, environ: dict[str, str] | None = None, **flags: object
) -> Settings:
    if toml is not None:
        (tmp_path / "launch.toml").write_text(toml, encoding="utf-8")
    return load(flags, environ=environ or {}, project=tmp_path)


def test_a_flag_wins_over_a_variable_over_the_project_over_the_user(tmp_path: Path) -> None:
    user = tmp_path / "user.toml"
    user.write_text("epochs = 1\nbeta = 0.1\nseed = 1\nbatch_size = 1\n")
    (tmp_path / "launch.toml").write_text("epochs = 2\nbeta = 0.2\nseed = 2\n")
    environ = {"LAUNCH_EPOCHS": "3", "LAUNCH_BETA": "0.3"}
    found = load({"epochs": "4"}, environ=environ, project=tmp_path, user_file=user)
    assert (found.epochs, found.beta, found.seed, found.batch_size) == (4.0, 0.3, 2, 1)


def test_the_earlier_scripts_names_are_taken(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        'sft_model_path = "org/model"\ntrain_data_path = "t.jsonl"\nval_data_path = "v.jsonl"\nnum_epochs = 2\n'
        'batch_size = 1\nlearning_rate = 5e-6\nlora_r = 16\nmax_length = 512\ndevice = "cpu"\n',
    )
    assert found.model == "org/model"
    assert found.train == tmp_path / "t.jsonl"
    assert (found.epochs, found.lora_r, found.device) == (2.0, 16, "cpu")


def test_paths_in_a_file_are_meant_from_where_the_file_stands(tmp_path: Path) -> None:
    (tmp_path / "stage a").mkdir()
    found = settings(tmp_path, 'model = "stage a"\nbase = "org/base"\nout = "results"\n')
    assert found.model == str(tmp_path / "stage a")
    assert found.base == "org/base"
    assert found.out == tmp_path / "results"


def test_the_trainers_interpreter_stands_in_a_table_and_the_data_in_another(tmp_path: Path) -> None:
    found = settings(tmp_path, '[dpo]\ntrain = "pairs.jsonl"\n[train]\npython = "/opt/python"\n')
    assert found.train == tmp_path / "pairs.jsonl"
    assert found.train_python == Path("/opt/python")


def test_a_table_of_a_method_has_keys_for_it_alone(tmp_path: Path) -> None:
    toml = 'epochs = 2\nlearning_rate = 5e-6\n[dpo]\nbeta = 0.3\n[sft]\nlearning_rate = 2e-4\ntrain = "texts.jsonl"\n'
    sft, dpo, orpo = (settings(tmp_path, toml, method=method) for method in ("sft", "dpo", "orpo"))
    assert (sft.epochs, sft.learning_rate, sft.train) == (2.0, 2e-4, tmp_path / "texts.jsonl")
    assert (dpo.epochs, dpo.learning_rate, dpo.beta, dpo.train) == (2.0, 5e-6, 0.3, None)
    assert (orpo.learning_rate, orpo.beta) == (5e-6, None)


@pytest.mark.parametrize("budget", ["0", "-3", "nan", "inf", "5€", "five", ""])
def test_a_budget_that_cannot_be_spent_is_refused(tmp_path: Path, budget: str) -> None:
    with pytest.raises(UsageProblem, match="--budget: ") as caught:
        settings(tmp_path, budget=budget)
    assert caught.value.exit_code == 2


def test_an_unknown_cloud_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"Did you mean lambda\?"):
        settings(tmp_path, cloud="lamda")


def test_a_loss_that_trl_does_not_know_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"--loss-type: TRL knows no loss sigmod. Did you mean sigmoid\?"):
        settings(tmp_path, loss_type="sigmod,sft")


def test_each_loss_has_a_weight_wherever_the_two_were_said(tmp_path: Path) -> None:
    file = 'loss_type = ["sigmoid", "sft"]\nloss_weights = [1.0, 0.2]\n'
    assert settings(tmp_path, file).loss_weights == (1.0, 0.2)
    with pytest.raises(UsageProblem, match=r"launch\.toml: loss_weights: 2 weights for 1 loss\.") as caught:
        settings(tmp_path, file, loss_type="ipo")
    assert "--loss-type is ipo" in str(caught.value)
    with pytest.raises(UsageProblem, match="--loss-weights: 2 weights for 1 loss") as caught:
        settings(tmp_path, "", loss_weights="1,2")
    assert "The default loss is sigmoid" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"epochs": "0"}, "--epochs"),
        ({"epochs": "nan"}, "--epochs"),
        ({"max_steps": "-1"}, "--max-steps"),
        ({"batch_size": "2.5"}, "--batch-size"),
        ({"beta": "inf"}, "--beta"),
        ({"within": "0"}, "--within"),
        ({"device": "tpu"}, "--device"),
        ({"name": ""}, "--name"),
    ],
)
def test_a_wrong_value_is_named_by_its_flag(tmp_path: Path, flags: dict[str, str], named: str) -> None:
    with pytest.raises(UsageProblem, match=named):
        settings(tmp_path, None, None, **flags)


def test_a_wrong_value_in_a_variable_or_a_file_is_named_by_it(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="LAUNCH_SEED: "):
        settings(tmp_path, None, {"LAUNCH_SEED": "x"})
    with pytest.raises(UsageProblem, match=r"launch\.toml: max_length: "):
        settings(tmp_path, "max_length = 0\n")


def test_an_unknown_key_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"no setting bach_size. Did you mean batch_size\?"):
        settings(tmp_path, "bach_size = 2\n")


@pytest.mark.parametrize("content", [b"epochs = ", b"\xff\xfe", b"[dpo\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "launch.toml").write_bytes(content)
    with pytest.raises(UsageProblem, match=r"launch\.toml cannot be read"):
        settings(tmp_path)


def test_the_verb_says_the_method_whatever_a_file_or_a_variable_says(tmp_path: Path) -> None:
    file, environ = 'method = "kto"\n', {"LAUNCH_METHOD": "sft"}
    assert settings(tmp_path, file, environ, method="orpo").method == "orpo"
    assert settings(tmp_path, file, environ).method == "sft"
    assert settings(tmp_path, file).method == "kto"
    assert settings(tmp_path, "").method == "dpo"
    with pytest.raises(UsageProblem, match="--method: "):
        settings(tmp_path, method="ppo")


def test_what_a_method_does_not_have_is_not_used_where_a_file_of_several_verbs_says_it(tmp_path: Path) -> None:
    file = 'beta = 0.2\nloss_type = ["ipo"]\nloss_weights = [1, 2, 3]\ndesirable_weight = 1.5\n'
    (tmp_path / "launch.toml").write_text(file)
    for method, beta, weight in (("orpo", 0.2, None), ("kto", 0.2, 1.5), ("sft", None, None)):
        found = settings(tmp_path, method=method)
        assert (found.beta, found.desirable_weight) == (beta, weight)
        assert (found.loss_type, found.loss_weights) == (None, None)
    with pytest.raises(UsageProblem, match="3 weights for 1 loss"):
        settings(tmp_path, method="dpo")


def test_a_batch_of_one_is_none_for_kto_wherever_it_was_said(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="--batch-size: 1 is too small for KTO") as caught:
        settings(tmp_path, batch_size="1", method="kto")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageProblem, match=r"launch\.toml: batch_size: 1 is too small"):
        settings(tmp_path, "batch_size = 1\n", method="kto")
    assert settings(tmp_path, method="sft").batch_size == 1


def test_a_wrong_value_is_looked_up_in_the_help_of_its_verb(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="`launch sft --help`"):
        settings(tmp_path, epochs="0", method="sft")


def test_a_folder_name_with_braces_is_only_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} {0}"
    folder.mkdir()
    with pytest.raises(UsageProblem, match=r"a \{b\} \{0\}"):
        settings(folder, "epochs = -1\n")
