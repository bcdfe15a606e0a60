"""What AWS, or boto3 on the way to it, did not do, as a person is told it."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

from artifacts.errors import CredentialProblem, LaunchError, UsageProblem
from jobs.aws.codes import DENIED, EXPIRED, LIMITED, NO_NETWORK, REFUSED, SKEWED

SIGN_IN = "aws sso login or aws configure, then aws sts get-caller-identity to see that it works"
SET_CLOCK = "set this machine's clock: timedatectl set-ntp true"


def botocore(module: str) -> Any:
    """A module of boto3's lower half. Raises UsageProblem where it is not installed."""
    try:
        return import_module(f"botocore.{module}")
    except ImportError:
        raise UsageProblem(
            "AWS needs boto3, which this installation lacks.",
            next_step="pipx install '.[cloud,aws]' (or: pip install 'dpo-launch[cloud,aws]')",
        ) from None


class AwsProblem(LaunchError):
    """AWS refused, or could not be asked. `code` is AWS's own, or the name of boto3's exception.

    `answered` is False where it is not known whether the request was carried out.
    """

    def __init__(self, what: str, *, code: str, why: str = "", next_step: str = "", answered: bool = True) -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.code, self.answered = code, answered


class NotAllowed(CredentialProblem):
    """The credentials are good, and their owner may not do this."""


def credential_problem(
    failed: str, *, to: str, operation: str = "", signing_in: bool = False, region: str = ""
) -> CredentialProblem | None:
    """What is wrong with the credentials, where `failed` (a code, or boto3's exception) is about them; else None.

    `to` is what AWS was asked, `signing_in` whether that was for the credentials themselves.
    """
    if failed in EXPIRED:
        return CredentialProblem(
            "The session with AWS has expired.",
            why=f"It answered {failed} to {to}.",
            next_step=f"{SIGN_IN}; if it goes on, set this machine's clock",
        )
    if failed in ("AuthFailure", "InvalidClientTokenId", "OptInRequired") and region:
        return CredentialProblem(
            f"AWS does not accept the credentials in {region}.",
            why=f"It answered {failed} to {to}: the account has not enabled this region, or the key is not valid.",
            next_step=f"aws account enable-region --region-name {region}, or another --region; {SIGN_IN}",
        )
    if failed in REFUSED:
        return CredentialProblem(
            "AWS does not accept the credentials.", why=f"It answered {failed} to {to}.", next_step=SIGN_IN
        )
    if not signing_in or failed in NO_NETWORK | SKEWED | {"NotInstalled"}:
        return None
    why, step = {
        "ProfileNotFound": ("AWS_PROFILE names a profile that is not in ~/.aws/config.", "aws configure list-profiles"),
        "PartialCredentialsError": ("There is an access key without its secret, or the other way.", "aws configure"),
        "Unprintable": ("A key of theirs holds spaces, or what no key is made of.", "aws configure"),
        "EOFError": (
            "The profile wants an MFA code, and nobody can be asked for one here.",
            "aws sts get-session-token --serial-number ARN --token-code CODE, and set what it prints",
        ),
    }.get(failed, (f"boto3 ended with {failed}{f' at {operation}' if operation else ''}.", SIGN_IN))
    return CredentialProblem("AWS's credentials cannot be used.", why=why, next_step=step)


def problem_of(error: Exception, region: str, *, service: str = "ec2", signing_in: bool = False) -> LaunchError:
    """A `CredentialProblem` or an `AwsProblem` for what boto3 raised. No message of AWS's that repeats a signature."""
    code, operation, said, status = _read(error)
    if code in DENIED:
        action = f"{service}:{operation}"
        return NotAllowed(
            f"The user of these AWS credentials may not call {action}.",
            why=f"AWS answered {code} in {region}.",
            next_step=f"ask for a policy that allows {action} (docs/security.md lists all that are needed)",
        )
    if code in SKEWED:
        return CredentialProblem(
            "AWS refuses what this machine signs: its clock is off.", why=f"It answered {code}.", next_step=SET_CLOCK
        )
    asked = f"{operation} in {region}" if operation else f"a question in {region}"
    found = credential_problem(code, to=asked, operation=operation, signing_in=signing_in, region=region)
    if found is not None:
        return found
    if code in NO_NETWORK or not operation:
        return AwsProblem(
            "AWS cannot be reached",
            code=code,
            why=f"{code} ({service} in {region})",
            next_step="check the network, and AWS_ENDPOINT_URL if it is set",
            answered=False,
        )
    if code in LIMITED:
        return AwsProblem(f"AWS was asked too often ({code})", code=code, why=said, next_step="wait a minute")
    return AwsProblem(
        f"AWS refused {operation} in {region} ({code})" if status < 500 else f"AWS failed at {operation} ({code})",
        code=code,
        why=said,
        answered=status < 500,
    )


def _read(error: Exception) -> tuple[str, str, str, int]:
    """Code, operation, message and HTTP status; for what is no answer, the exception's name alone."""
    response: object = getattr(error, "response", None)
    if not isinstance(response, dict):
        return type(error).__name__, "", "", 0
    known = cast("dict[str, Any]", response)
    said: Any = known.get("Error", {})
    code, message = str(said.get("Code", "Unknown")), str(said.get("Message", ""))
    if "Signature expired" in message or "Signature not yet current" in message:
        code = "RequestTimeTooSkewed"
    status = int(known.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    # What is encoded there says nothing to a person, and is of any length.
    message = re.sub(r"(?s)\s*Encoded authorization failure message:.*", "", message)
    return code, str(getattr(error, "operation_name", "")), message[:300], status


@contextmanager
def asking(region: str, service: str = "ec2", *, signing_in: bool = False) -> Generator[None]:
    """Within it boto3's errors become ours.

    Raises:
        CredentialProblem: they are not accepted, or may not do this.
        AwsProblem: anything else that AWS, or the way to it, did not do.
    """
    exceptions: Any = botocore("exceptions")
    # The others: an answer, a file or a variable that is not what it should be.
    odd = (KeyError, TypeError, ValueError, AttributeError, OSError, EOFError) if signing_in else ()
    no_answer = botocore("parsers").ResponseParserError  # a page of some proxy, and none of boto3's own errors
    kinds = cast("tuple[type[Exception], ...]", (exceptions.BotoCoreError, exceptions.ClientError, no_answer, *odd))
    try:
        yield
    except kinds as error:
        raise problem_of(error, region, service=service, signing_in=signing_in) from error
