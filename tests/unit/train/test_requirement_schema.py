"""The published JSON Schema of a requirement file."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docs" / "hardware-requirement-1.schema.json"
MAKE_IT = [sys.executable, "-m", "train.requirement"]


def test_the_published_schema_is_current() -> None:
    made = subprocess.run(MAKE_IT, cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == PUBLISHED.read_text(encoding="utf-8"), (
        f"make it again, from the repository's root: python -m train.requirement > {PUBLISHED.relative_to(ROOT)}"
    )


def test_it_names_the_version_and_lets_through_keys_of_later_ones() -> None:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert schema["properties"]["schema"]["const"] == schema["title"] == "hardware-requirement/1"
    assert schema["required"] == ["schema", "workload", "options"]
    assert all(part["additionalProperties"] is True for part in [schema, *schema["$defs"].values()])
