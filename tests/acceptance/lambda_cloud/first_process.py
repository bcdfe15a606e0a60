"""The first process of an instance: cloud-init's stages in the order of Ubuntu's units, sshd, and its children's end.

Run by the instance's own Python. sshd comes after the stage `init` (host keys, users, bootcmd), and the stages `config`
and `final` run beside it, as ssh.service stands to cloud-init's units on a machine with systemd.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NO_SSHD = Path("/etc/fake-cloud/no-sshd")
SSHD = ["/usr/sbin/sshd", "-D", "-e"]


def say(text: str) -> None:
    print(f"first process: {text}", flush=True)


def main() -> None:
    os.environ.update(PATH=PATH, LC_ALL="C.UTF-8", HOME="/root")
    Path("/run/sshd").mkdir(exist_ok=True)
    for stage in (["init", "--local"], ["init"]):
        status = subprocess.run(["cloud-init", *stage], check=False).returncode
        say(f"cloud-init {' '.join(stage)}: {status}")
    say("initialised")
    # The sleeper keeps os.wait() from running out of children.
    subprocess.Popen(["sleep", "infinity"])
    subprocess.Popen(["sh", "-c", "cloud-init modules --mode=config; cloud-init modules --mode=final"])
    sshd = None if NO_SSHD.exists() else subprocess.Popen(SSHD)
    while True:
        pid, status = os.wait()
        if sshd is not None and pid == sshd.pid:
            say(f"sshd ended ({status}), starts again")
            time.sleep(0.2)
            sshd = subprocess.Popen(SSHD)


if __name__ == "__main__":
    sys.exit(main())
