"""Process time of reading catalogues of full size: every row looked at, every price checked.

.venv/bin/python tests/bench/catalogue_read.py
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = 40_000
RUNS = 7


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from launcher.catalogue import read_catalogue
    from launcher.price_check import compare_with_last, plausible
    from tests.catalogues.files import write_full_size

    with tempfile.TemporaryDirectory() as name:
        folder = write_full_size(Path(name), ROWS)
        seen = folder / "seen.json"
        read, checked, offers = list[float](), list[float](), 0
        for _ in range(RUNS):
            start = time.process_time()
            found = [read_catalogue(cloud, folder, datetime.now(UTC)) for cloud in ("lambda", "aws")]
            middle = time.process_time()
            listed = [offer for one in found for offer in one.offers]
            compare_with_last(("lambda", "aws"), plausible(listed, datetime.now(UTC))[0], seen)
            read.append(middle - start)
            checked.append(time.process_time() - middle)
            offers = len(listed)
    result = {
        "rows": ROWS,
        "offers": offers,
        "runs": RUNS,
        "cores": os.cpu_count(),
        "read_s": round(statistics.median(read), 3),
        "price_check_s": round(statistics.median(checked), 3),
    }
    (ROOT / "tests" / "bench" / "results" / "catalogue_read.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{ROWS:,} rows, {offers:,} offers: read in {result['read_s']} s, prices checked in "
          f"{result['price_check_s']} s of process time (median of {RUNS} runs)")  # fmt: skip


if __name__ == "__main__":
    main()
