"""A graphics card as the program finds it: the real NVML bindings on a library made here, in a child process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import Program

SOURCE = Path(__file__).with_name("fake_nvml.c")
VERSION_MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was updated under a running kernel
ASK = "import json; from launcher import machine; print(json.dumps(machine.gpus()))"


def library(folder: Path, init_result: int) -> dict[str, str]:
    """The variables of a process that finds the library; it answers `init_result` when it is started."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the library with")
    file = folder / "libnvidia-ml.so.1"
    define = f"-DINIT_RESULT={init_result}"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", define, "-o", file, SOURCE], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


def gpus(environ: dict[str, str]) -> list[list[object]]:
    environ = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])} | environ
    answer = subprocess.run([sys.executable, "-c", ASK], env=environ, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def gpu_finding(program: Program) -> dict[str, str]:
    done = program.run("doctor", "--json")
    (found,) = [item for item in json.loads(done.stdout)["findings"] if item["name"] == "GPU"]
    return found


def test_a_card_is_in_the_plan_with_its_name_and_memory(small: Program, tmp_path: Path) -> None:
    environ = library(tmp_path, 0)
    assert gpus(environ) == [["NVIDIA GeForce RTX 5070", 12.0]]
    program = Program(small.home, small.folder, environ)
    offers = program.document("plan", "dpo", "--yes")["offers"]
    cards = {(offer["gpu"], offer["gpus"], offer["vram_gib"], offer["price_per_hour"]) for offer in offers}
    assert ("NVIDIA GeForce RTX 5070", 1, 12.0, 0) in cards
    assert gpu_finding(program)["found"] == "NVIDIA GeForce RTX 5070, 12.0 GiB"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_the_library_has_no_card_and_no_problem(program: Program) -> None:
    assert gpus({}) == []
    found = gpu_finding(program)
    assert found["level"] == "note"
    assert found["found"].startswith("none; ")


def test_a_driver_that_does_not_start_is_no_card_and_the_doctor_says_why(program: Program, tmp_path: Path) -> None:
    environ = library(tmp_path, VERSION_MISMATCH)
    assert gpus(environ) == []
    found = gpu_finding(Program(program.home, program.folder, environ))
    assert found["level"] == "note"
    assert "version mismatch" in found["found"]
    assert "nvidia-smi must work" in found["remedy"]
