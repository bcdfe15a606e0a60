"""The wheel, not the checkout: installed into an empty environment and run from a folder made to confuse it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.program import without_test_data

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(REPOSITORY)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `launch` of an environment that holds the wheel and what it depends on, nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(pip, check=True, timeout=300)
    return folder / "bin" / "launch"


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A user's project with names of ours in it, each of which fails when it is imported."""
    for name in ("train.py", "jobs.py", "artifacts.py", "launcher.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the user was imported')\n")
    (tmp_path / "sky").mkdir()
    (tmp_path / "sky" / "__init__.py").write_text("raise SystemExit('a folder of the user was imported')\n")
    return tmp_path


def launch(program: Path, folder: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "LAUNCH_HOME": str(home / "state")}
    return subprocess.run(
        [str(program), *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_wheel_holds_our_packages_and_no_top_level_sky(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"launcher", "jobs", "artifacts", "train"} <= tops
    assert "sky" not in tops
    assert "tests" not in tops
    assert any(name.startswith("jobs/_sky/") for name in names)
    assert any(name.startswith("train/locks/") for name in names)
    assert any(name.startswith("launcher/demo/stage_a/") for name in names)


def test_it_runs_from_a_folder_with_a_train_py_a_jobs_py_and_a_sky(
    installed: Path, traps: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    for words in (["--help"], ["status"], ["doctor"], ["cost"], ["demo", "sample"]):
        done = launch(installed, traps, home, *words)
        assert done.returncode == 0, done.stderr
        assert "of the user was imported" not in done.stdout + done.stderr
    assert (traps / "sample" / "launch.toml").is_file()


def test_the_driver_and_the_trainers_children_run_from_there_as_well(
    installed: Path, traps: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`python -m jobs.driver` and `python -m train` must be ours, whatever the folder holds."""
    home = tmp_path_factory.mktemp("home")
    launch(installed, traps, home, "demo", "sample")
    without_test_data(traps / "sample")
    for name in ("train.py", "jobs.py"):
        (traps / "sample" / name).write_text("raise SystemExit('a file of the user was imported')\n")
    train_python = os.environ["LAUNCH_TEST_TRAIN_PYTHON"]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LAUNCH_HOME": str(home / "state"),
        "LAUNCH_TRAIN_PYTHON": train_python,
        "LAUNCH_MAX_STEPS": "2",
    }
    done = subprocess.run(
        [str(installed), "dpo", "--yes"],
        cwd=traps / "sample",
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of the user was imported" not in done.stdout + done.stderr


def test_sky_in_the_repository_holds_no_python_and_leaves_the_real_package_its_name(tmp_path: Path) -> None:
    assert not list((REPOSITORY / "sky").rglob("*.py"))
    # As SkyPilot would be installed: a regular package on the path after the checkout.
    package = tmp_path / "sky"
    package.mkdir()
    (package / "__init__.py").write_text("WHO = 'the installed one'\n")
    found = subprocess.run(
        [sys.executable, "-c", "import sky; print(sky.WHO)"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "the installed one"


def test_a_package_of_anothers_with_one_of_our_names_is_said_at_start(installed: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "train"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("")
    done = subprocess.run(
        [str(installed), "status"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the package train that Python finds is not this program's own" in done.stderr
    assert "pipx install" in done.stderr
