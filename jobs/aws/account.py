"""The user's AWS account, as boto3 finds its credentials: `AWS_*` variables, profiles, SSO. Nothing is written."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import CredentialProblem
from jobs.aws.problems import SIGN_IN, asking, botocore, credential_problem

SIGNS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
CONNECT_S, READ_S, ATTEMPTS = 5, 30, 4


def signs_of_credentials(environ: Mapping[str, str]) -> bool:
    """Whether it is worth starting boto3: a variable that it reads, or a file. A machine's own role is not one.

    The service at 169.254.169.254 that gives a role is not asked: nothing answers there on a laptop, and it is slow.
    """
    if any(environ.get(name) for name in SIGNS):
        return True
    return any(Path(environ.get(name) or file).expanduser().is_file() for name, file in FILES.items())


def no_credentials() -> CredentialProblem:
    return CredentialProblem(
        "There are no credentials of AWS here.",
        why="boto3 finds none in the AWS_* variables, ~/.aws/credentials and ~/.aws/config.",
        next_step=SIGN_IN,
    )


@dataclass(frozen=True)
class Keys:
    """Credentials as they are now; those of a session have a token, and expire."""

    access: str
    secret: str
    token: str | None = None


@dataclass(frozen=True)
class Identity:
    user_id: str
    account: str
    arn: str


class Account:
    """Asks AWS with the credentials of `environ`, else with `kept`: what a job's machine was rented with ends it."""

    def __init__(self, environ: Mapping[str, str], kept: Keys | None = None) -> None:
        """
        Raises:
            UsageProblem: boto3 is not installed.
            CredentialProblem: no credentials, or such as cannot be used.
        """
        self.environ, self._kept = environ, kept
        self._lock = threading.Lock()  # a session makes one client at a time
        self._clients: dict[tuple[str, str, int], Any] = {}
        self._session: Any = None
        self.keys()

    def keys(self) -> Keys:
        """The credentials of now; a session's are fetched again when they are near their end."""
        with self._lock, asking("every region", "sts", signing_in=True):
            return self._keys()

    def _keys(self) -> Keys:
        found = self._own_keys() or self._kept
        if found is None:
            raise no_credentials()
        return found

    def _own_keys(self) -> Keys | None:
        if signs_of_credentials(self.environ):
            credentials: Any = self._own().get_credentials()
            frozen: Any = credentials.get_frozen_credentials() if credentials else None
            if frozen is not None:
                keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
                if all(re.fullmatch(r"[!-~]+", part) for part in (keys.access, keys.secret, keys.token or "-")):
                    return keys
                problem = credential_problem("Unprintable", to="", signing_in=True)
                assert problem is not None
                raise problem  # a header takes nothing else, and its error would print them
        return None

    def _own(self) -> Any:
        if self._session is None:
            self._session = botocore("session").Session()
        return self._session

    def client(self, service: str, region: str, *, attempts: int = ATTEMPTS) -> Any:
        """boto3's client of a service in a region, made when it is first needed. Thread-safe."""
        with self._lock:
            slot = (service, region, attempts)
            if slot not in self._clients:
                config = botocore("config").Config(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"total_max_attempts": attempts, "mode": "standard"},
                    user_agent_extra="dpo-launch",
                )
                given: dict[str, str | None] = {}
                with asking(region, service, signing_in=True):
                    own = self._own_keys()
                if own is None and self._kept is not None:
                    given = {
                        "aws_access_key_id": self._kept.access,
                        "aws_secret_access_key": self._kept.secret,
                        "aws_session_token": self._kept.token,
                    }
                with asking(region, service, signing_in=True):
                    self._clients[slot] = self._own().create_client(service, region_name=region, config=config, **given)
            return self._clients[slot]

    def forget(self) -> None:
        """Reads files and variables again at the next question: somebody may have signed in since."""
        with self._lock:
            self._clients.clear()
            self._session = None

    def identity(self, region: str = "us-east-1") -> Identity:
        """Who AWS takes us for, by STS: the cheapest proof that it takes the credentials."""
        client = self.client("sts", region)
        with asking(region, "sts"):
            said: Any = client.get_caller_identity()
        return Identity(str(said["UserId"]), str(said["Account"]), str(said["Arn"]))

    def regions(self, region: str = "us-east-1") -> list[str]:
        """Those that the account has enabled."""
        client = self.client("ec2", region)
        with asking(region):
            said: Any = client.describe_regions()
        return sorted(str(each["RegionName"]) for each in said["Regions"])
