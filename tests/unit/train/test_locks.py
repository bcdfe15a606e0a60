"""The lock files pin what pyproject.toml asks of a trainer's environment, at versions that it allows."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from jobs.environment import NEEDED

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ROOT / "train" / "locks"


def pinned(name: str) -> dict[str, Version]:
    """Version by normalized package name. Fails on a line that is no plain pin, but for where Volta's build is from."""
    lines = [line for line in (LOCKS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    if name == "volta":
        lines.remove("--extra-index-url https://download.pytorch.org/whl/cu126")
    pins = [line.split("==") for line in lines]
    versions = {canonicalize_name(package): Version(version) for package, version in pins}
    assert len(versions) == len(lines)
    return versions


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    trainer = [Requirement(line) for line in project["optional-dependencies"]["train"]]
    both = [Requirement(line) for line in project["dependencies"] if line.startswith(("pydantic", "psutil"))]
    return trainer + both


@pytest.mark.parametrize("lock", ["cpu", "cuda", "volta"])
@pytest.mark.parametrize("requirement", asked(), ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_at_a_version_that_it_allows(lock: str, requirement: Requirement) -> None:
    version = pinned(lock)[canonicalize_name(requirement.name)]
    assert version in requirement.specifier


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_no_pin_names_one_build(lock: str) -> None:
    """`torch==2.13.0+cpu` is on no index but PyTorch's own."""
    assert [name for name, version in pinned(lock).items() if version.local] == []


def test_all_locks_pin_the_same_versions_and_volta_the_build_that_has_its_kernels() -> None:
    assert pinned("cpu") == pinned("cuda")
    volta = pinned("volta")
    assert str(volta["torch"]) == f"{pinned('cuda')['torch']}+cu126"
    assert volta | {"torch": pinned("cuda")["torch"]} == pinned("cuda")


def test_an_interpreter_of_the_users_own_is_held_to_the_same_lower_bounds() -> None:
    bounds = {
        canonicalize_name(requirement.name): next(
            part.version for part in requirement.specifier if part.operator == ">="
        )
        for requirement in asked()
    }
    for name, oldest in NEEDED.items():
        assert Version(bounds[name]) == Version(".".join(map(str, oldest))), name
