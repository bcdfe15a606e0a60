"""A rented machine: network, pid, mount, uts and ipc namespaces over an overlay of the image, with real sshd.

Its disk outlives a reboot, its processes and /run do not. It has an address of its own on the run's bridge, and no way
to anything but this machine and its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.lambda_cloud import authority
from tests.acceptance.lambda_cloud.network import Network, end_namespace, ip
from tests.acceptance.lambda_cloud.provider import Order

REPOSITORY = Path(__file__).resolve().parents[3]
UBUNTU = 1000
TRAINER_AT = "/opt/launch-trainer/site-packages"  # of that name, or dill takes its modules for a script's own
FIRST_PROCESS_AT = "/opt/first_process.py"
IMAGES_AT = "/var/lib/images"
LONGEST_BOOT_S = 300.0

# Run as the first process of new namespaces; $1 is the instance's folder, $2 the image, $3 the trainer's packages, $4 a
# container engine's programs over the image, $5 its store of images.
BOOT = f"""\
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=${{4:+$4:}}$2,upperdir=$1/disk,workdir=$1/work,index=off" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=0755 dev dev
for name in null zero full random urandom tty fuse; do
  [ -e "/dev/$name" ] && {{ touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; }}
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=0755 run run
mkdir -m 1777 run/lock
mkdir -p var/lib/containers .old
mount --bind "$1/containers" var/lib/containers
if [ -n "$3" ]; then
  mount --bind "$3" .{TRAINER_AT}
  mount -o remount,bind,ro .{TRAINER_AT}
fi
if [ -n "$5" ]; then
  mkdir -p .{IMAGES_AT}
  mount --bind "$5" .{IMAGES_AT}
  mount -o remount,bind,ro .{IMAGES_AT}
  mount -t cgroup2 cgroup2 sys/fs/cgroup  # crun looks what is there, to use none of it
  mount -o remount,bind,ro sys/fs/cgroup
fi
pivot_root . .old
exec chroot . /bin/sh -ec 'umount -l /.old; exec /usr/bin/python3 -I {FIRST_PROCESS_AT}'
"""


def trainer_packages() -> Path | None:
    """The site-packages of the trainer's environment that `make test` makes; None before it was made."""
    given = os.environ.get("LAUNCH_TEST_TRAINER_SITE")
    site = Path(given) if given else REPOSITORY / ".venv-train/lib/python3.11/site-packages"
    return site.resolve() if site.is_dir() else None


@dataclass(frozen=True)
class Engine:
    """What a machine's image has over that of rootfs.py, a container engine above all; and images to begin with."""

    layer: Path
    store: Path | None = None


class NamespaceMachine:
    """One machine. `start` and `destroy` are the provider's; the rest is for tests."""

    def __init__(self, order: Order, network: Network, image: Path, engine: Engine | None = None) -> None:
        self.order = order
        self.address = network.take_address()
        self.folder = network.folder / order.instance_id[:12]
        self.namespace = f"{network.bridge}-{order.instance_id[:8]}"
        self._network = network
        self._image = image
        self._engine = engine
        self._link = f"lv{order.instance_id[:10]}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._up = threading.Event()
        self._gone = threading.Event()

    # The provider's side.

    def start(self) -> None:
        """Begins to boot; returns at once."""
        threading.Thread(target=self._first_boot, daemon=True).start()

    def ready(self) -> bool:
        """sshd answers, or cloud-init is through where there is to be no sshd."""
        return self._up.is_set()

    def destroy(self) -> None:
        """Ends everything in it, and removes its disk."""
        with self._lock:
            if self._gone.is_set():
                return
            self._gone.set()
            self._end_processes()
            end_namespace(self.namespace)
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self._network.give_back(self.address)

    # A test's side.

    @property
    def alive(self) -> bool:
        """Anything runs in it."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def console(self) -> str:
        """What its first process and cloud-init said, over all boots."""
        file = self.folder / "console.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def kill(self) -> None:
        """It dies, as hardware does: no process goes on, nothing is saved that was not on its disk."""
        with self._lock:
            self._end_processes()

    def reboot(self) -> None:
        """Dies and starts again on the same disk; returns when its sshd answers."""
        with self._lock:
            self._end_processes()
            self._boot()
        self.wait_until_up()

    def wait_until_up(self, limit_s: float = LONGEST_BOOT_S) -> None:
        """Until `ready()`.

        Raises:
            TimeoutError: it is not, with the end of its console.
        """
        if not self._up.wait(limit_s):
            raise TimeoutError(f"{self.order.name} did not come up in {limit_s} s: {self.console[-2000:]}")

    def cut(self) -> None:
        """Its network falls silent: connections hang, none is closed."""
        ip("link", "set", self._link, "nomaster")

    def restore(self) -> None:
        """Its network goes on."""
        ip("link", "set", self._link, "master", self._network.bridge)

    def change_host_keys(self) -> None:
        """New host keys, and an sshd that has them: as if somebody else answered."""
        renew = (
            "rm -f /etc/ssh/ssh_host_*; ssh-keygen -A; "
            # The listener only: connections that stand go on with the keys they have.
            "kill $(pgrep -o -x sshd)"
        )
        self.run(["sh", "-ec", renew])
        self._watch_for_sshd(time.monotonic() + LONGEST_BOOT_S)

    def run(self, command: list[str], *, user: str = "root", check: bool = True) -> str:
        """What a command says in it, past its sshd (as on its console). Standard output only.

        Raises:
            RuntimeError: it fails, or nothing runs there.
        """
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        home = "/root" if user == "root" else f"/home/{user}"
        environment = ["env", "-i", f"HOME={home}", f"USER={user}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        enter = ["nsenter", f"--target={self._first_pid()}", "--all", "--wd=/"]
        said = subprocess.run([*enter, *environment, *as_user, *command], capture_output=True, text=True, check=False)
        if check and said.returncode:
            raise RuntimeError(f"{command} in {self.order.name}: {said.returncode}: {said.stdout}{said.stderr}")
        return said.stdout

    def processes(self) -> list[str]:
        """The command lines of all that runs in it."""
        return [line for line in self.run(["ps", "-eo", "args="]).splitlines() if line]

    # How it is done.

    def _first_boot(self) -> None:
        with self._lock:
            if self._gone.is_set():
                return
            for name in ("disk", "work", "root", "containers"):
                (self.folder / name).mkdir(parents=True)
            self._write_disk()
            self._make_network()
            self._boot()

    def _make_network(self) -> None:
        last = int(self.address.rpartition(".")[2])
        ip("netns", "add", self.namespace)
        # The hardware address follows from the network's: a new machine of an old address is reached at once.
        peer = ["peer", "name", "eth0", "address", f"02:4c:4e:43:00:{last:02x}", "netns", self.namespace]
        ip("link", "add", self._link, "type", "veth", *peer)
        ip("link", "set", self._link, "master", self._network.bridge, "up")
        ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        ip("-n", self.namespace, "link", "set", "lo", "up")

    def _write_disk(self) -> None:
        """What a provider puts on a disk before the first boot."""
        hostname = self.order.instance_id[:12]
        hosts = f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n{self._network.address} {' '.join(authority.HOSTS)}\n"
        self._put("etc/hosts", hosts)
        self._put("etc/resolv.conf", "")
        seed = "var/lib/cloud/seed/nocloud"
        meta = {"instance-id": self.order.instance_id, "local-hostname": hostname}
        self._put(f"{seed}/meta-data", json.dumps(meta | {"public-keys": list(self.order.authorized_keys)}))
        self._put(f"{seed}/user-data", self.order.user_data or "")
        self._put(FIRST_PROCESS_AT.lstrip("/"), (Path(__file__).with_name("first_process.py")).read_text())
        if self.order.boot.no_sshd:
            self._put("etc/fake-cloud/no-sshd", "")
        if trainer_packages() is not None:
            self._put_trainer()

    def _put_trainer(self) -> None:
        """The trainer's environment as a machine image has it: named for its lock, its packages mounted read-only."""
        lock = hashlib.sha256((REPOSITORY / "train/locks/cpu.txt").read_bytes()).hexdigest()[:12]
        venv = f"home/ubuntu/launch/environments/{lock}"
        self._put(f"{venv}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n", UBUNTU)
        # A thread a trainer: more would wait for each other on a machine that has other work.
        one_thread = "import os; os.environ.setdefault('OMP_NUM_THREADS', '1')"
        self._put(f"{venv}/lib/python3.11/site-packages/launch-trainer.pth", f"{TRAINER_AT}\n{one_thread}\n", UBUNTU)
        self._put(f"{venv}/whole", "", UBUNTU)
        programs = self._directory(f"{venv}/bin", UBUNTU)
        for name in ("python", "python3"):
            (programs / name).symlink_to("/usr/bin/python3")
            os.chown(programs / name, UBUNTU, UBUNTU, follow_symlinks=False)

    def _put(self, path: str, text: str, owner: int = 0) -> None:
        file = self._directory(str(Path(path).parent), owner) / Path(path).name
        file.write_text(text)
        os.chown(file, owner, owner)
        file.chmod(0o644)

    def _directory(self, path: str, owner: int) -> Path:
        """Makes it on the disk, each folder with the image's owner and mode where the image has it."""
        made = self.folder / "disk"
        for part in Path(path).parts:
            made /= part
            if made.exists():
                continue
            made.mkdir()
            of_image = self._image / made.relative_to(self.folder / "disk")
            known = of_image.stat() if of_image.is_dir() else None
            os.chown(made, known.st_uid if known else owner, known.st_gid if known else owner)
            made.chmod(known.st_mode & 0o7777 if known else 0o755)
        return made

    def _boot(self) -> None:
        """With the lock held."""
        self._up.clear()
        trainer = trainer_packages()
        engine = [str(self._engine.layer), str(self._engine.store or "")] if self._engine else ["", ""]
        shell = ["sh", "-c", BOOT, "sh", str(self.folder), str(self._image), str(trainer or ""), *engine]
        spaces = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"]
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.namespace}", *spaces, *shell],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )  # fmt: skip
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + LONGEST_BOOT_S
        while time.monotonic() < deadline and process.poll() is None and not self._gone.is_set():
            no_sshd = self.order.boot.no_sshd
            if "first process: initialised" in self.console if no_sshd else self._sshd_answers():
                self._up.set()
                return
            time.sleep(0.1)

    def _watch_for_sshd(self, deadline: float) -> None:
        while not self._sshd_answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"sshd of {self.order.name} does not answer: {self.console[-2000:]}")
            time.sleep(0.1)

    def _sshd_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _first_pid(self) -> int:
        """Of the instance's first process, as this machine numbers it."""
        process = self._process
        if process is None or process.poll() is not None:
            raise RuntimeError(f"nothing runs in {self.order.name}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0])

    def _end_processes(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._up.clear()
        try:
            os.kill(self._first_pid(), signal.SIGKILL)  # and with it all of its namespace
        except (IndexError, ProcessLookupError):
            process.kill()  # it had not forked yet
        process.wait()
