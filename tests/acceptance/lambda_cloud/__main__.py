"""A fake Lambda to try the name line on, at no cost: `python -m tests.acceptance.lambda_cloud FOLDER` (root).

Makes the sample project and a HOME in FOLDER, and prints what to type in another terminal. Ends with Ctrl-C, and all
its machines with it.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from tests.acceptance.conftest import pytest_configure
from tests.acceptance.lambda_cloud.cloud import Cloud, cannot_run
from tests.acceptance.lambda_cloud.renter import make_renter
from tests.acceptance.program import Program


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m tests.acceptance.lambda_cloud", description=__doc__)
    asked.add_argument("folder", type=Path)
    folder: Path = asked.parse_args().folder.absolute()
    if why := cannot_run():
        raise SystemExit(why)
    pytest_configure(None)  # type: ignore[arg-type]  # names the trainer's Python that `make test` made
    folder.mkdir(parents=True)
    (folder / "maker").mkdir()
    Program(folder / "maker", folder).good("demo", str(folder / "demo"))
    with Cloud() as cloud:
        renter = make_renter(cloud, folder, folder / "demo")
        for name, value in renter.variables().items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"cd {shlex.quote(str(renter.folder))}")
        print(f"{sys.executable} -m launcher dpo --budget 5 --cloud lambda --no-container", flush=True)
        signal.sigwait([signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    main()
