"""What a folder holds that a DPO job needs, and the launch.toml that names it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

DEPTH = 4
LOOK_AT = 5000


def find(folder: Path) -> dict[str, str]:
    """Settings by name, as paths relative to `folder`: requirements, model, train, val, test, where they are found."""
    found: dict[str, str] = {}
    for path in islice(_walk(folder), LOOK_AT):
        name = path.name.casefold()
        where = path.relative_to(folder).as_posix()
        if path.suffix == ".json" and "requirement" in name and "requirements" not in found and _is_requirement(path):
            found["requirements"] = where
        elif path.suffix == ".jsonl":
            for key in ("train", "val", "test"):
                if name.startswith(key) and key not in found:
                    found[key] = where
        elif name == "adapter_config.json" and "model" not in found:
            found["model"] = path.parent.relative_to(folder).as_posix()
    return found


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Files, nearest first, without hidden folders, environments and results."""
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        return
    yield from (entry for entry in entries if entry.is_file())
    if depth < DEPTH:
        for entry in entries:
            if (
                entry.is_dir()
                and not entry.is_symlink()
                and entry.name[0] != "."
                and entry.name not in ("runs", "venv")
            ):
                yield from _walk(entry, depth + 1)


def _is_requirement(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "schema" in document


def _key(name: str, found: Mapping[str, str], example: str, comment: str) -> str:
    value = json.dumps(found.get(name, example), ensure_ascii=False)
    return f"# {comment}\n{'' if name in found else '# '}{name} = {value}\n"


def toml(found: Mapping[str, str]) -> str:
    """The text of a launch.toml: what was found is set, the rest stands commented with its default."""
    # With a requirement file the model stands there; naming it twice would only let the two disagree.
    model: Mapping[str, str] = {} if "requirements" in found else found
    parts = [
        "# Settings of `launch dpo` in this folder. A flag wins over a LAUNCH_* variable, and that over this file.\n",
        _key("requirements", found, "requirement.json", "The hardware requirement calculator's output."),
        _key("model", model, "models/sft/final_model", "Stage A: an adapter folder, a full model folder, or a hub id."),
        _key("train", found, "data/train.jsonl", "Preference pairs: one JSON object a line: prompt, chosen, rejected."),
        _key("val", found, "data/val.jsonl", "Pairs by which the best adapter is chosen."),
        _key("test", found, "data/test.jsonl", "Held-out data: Stage A is compared with Stage B on it."),
        "# No budget: nothing is ever bought, and the job runs on this machine.\n# budget = 5\n",
        "# epochs = 1\n# batch_size = 8\n# max_length = 1024\n# learning_rate = 5e-6\n# beta = 0.1\n",
        '# Where results go.\n# out = "runs"\n',
    ]
    return "\n".join(parts)
