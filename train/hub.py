# pyright: basic, reportMissingImports=false
"""A base that is named by its id on the model hub, brought to this machine by the hub's own client.

The client reads HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and the token (HF_TOKEN, or what `hf auth login` stored). No
message here repeats the token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from train.config import ModelRef
from train.errors import InputError
from train.model_folder import has_adapter
from train.stage_a import check_files
from train.weights import INDEX, weight_files

_TEXTS = ["*.json", "*.model", "*.jinja", "*.txt"]
_WEIGHTS = ["*.safetensors"]
_SECOND_COPIES = ["consolidated*.safetensors", "*/*.safetensors"]
"""The same weights once more, in the layout of another program."""


def fetched(ref: ModelRef) -> ModelRef:
    """`ref` with a base that is a folder of this machine: a hub id is downloaded (safetensors only), and checked.

    Raises:
        InputError: the hub does not give it, or it is no model that can be loaded.
    """
    if Path(ref.base).is_dir():
        return ref
    folder = _download(ref, _TEXTS + _WEIGHTS, _SECOND_COPIES)
    if not weight_files(folder) and not has_adapter(folder):
        raise InputError(
            f"{_named(ref)} has no safetensors weights on the hub.",
            "Only safetensors is loaded: torch's own format can run code when it is read.",
            "save it with save_pretrained(FOLDER), and name that folder: --base FOLDER",
        )
    local = ref.model_copy(update={"base": str(folder), "base_revision": None})
    check_files(local)
    return local


def fetch_texts(ref: ModelRef) -> Path:
    """The folder of a base's configuration and tokenizer; of one on the hub these are brought here, and no weights.

    Raises:
        InputError: the hub does not give them.
    """
    return Path(ref.base) if Path(ref.base).is_dir() else _download(ref, _TEXTS, [INDEX])


def _download(ref: ModelRef, wanted: list[str], unwanted: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(ref.base, revision=ref.base_revision, allow_patterns=wanted, ignore_patterns=unwanted)
        )
    except errors.HFValidationError as problem:
        raise InputError(f"There is no folder {ref.base}", str(problem), "check --base") from problem
    except errors.GatedRepoError as problem:
        _gated(ref, problem)
    except errors.RevisionNotFoundError as problem:
        raise InputError(
            f"{ref.base} has no revision {ref.base_revision!r} on the hub.", "", f"see {_page(ref)}"
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        _unknown(ref, problem)
    except errors.LocalEntryNotFoundError as problem:
        _unreachable(ref, problem.__cause__ or problem)
    except errors.HTTPError as problem:  # the hub's answers, and what the connection itself met with
        if getattr(getattr(problem, "response", None), "status_code", None) == 401:
            _refused(ref, problem)
        _unreachable(ref, problem)
    except OSError as problem:
        raise InputError(
            f"{_named(ref)} cannot be stored on this machine.", str(problem), "HF_HOME names the folder to download to."
        ) from problem


def _gated(ref: ModelRef, problem: Exception) -> NoReturn:
    from huggingface_hub import get_token

    why = (
        "No token was sent."
        if get_token() is None
        else "The token that was sent has no access to it: its account did not accept the licence, or the token "
        "may not read gated models."
    )
    raise InputError(f"{ref.base} is a gated model, and the hub did not give it.", why, _licence(ref)) from problem


def _refused(ref: ModelRef, problem: Exception) -> NoReturn:
    from huggingface_hub import get_token

    if get_token() is None:  # so does a hub answer that says nothing of what it does not show
        _unknown(ref, problem)
    raise InputError(
        f"The hub does not accept the token, and did not give {ref.base}.",
        "It is mistyped, expired or revoked.",
        f"make a new one at {_endpoint()}/settings/tokens. If the model is gated, {_licence(ref)}",
    ) from problem


def _unknown(ref: ModelRef, problem: Exception) -> NoReturn:
    raise InputError(
        f"{ref.base} is no folder here, and no model on the hub that may be read.",
        "The name is wrong, the model is private, or it is a folder that is named from somewhere else.",
        f"check the name; for a private model set HF_TOKEN; a folder is named from here: --base FOLDER ({Path.cwd()})",
    ) from problem


def _unreachable(ref: ModelRef, problem: BaseException) -> NoReturn:
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise InputError(
            f"{_named(ref)} is not on this machine, and the hub may not be asked.",
            "No folder here has that name. HF_HUB_OFFLINE is set.",
            "unset HF_HUB_OFFLINE, or name a folder: --base FOLDER",
        ) from problem
    raise InputError(
        f"The model hub at {_endpoint()} did not give {_named(ref)}.",
        f"{_first_line(problem)}. No folder here has that name.",
        "check the network and run the command again, or name a folder: --base FOLDER",
    ) from problem


def _licence(ref: ModelRef) -> str:
    return f"accept the licence at {_page(ref)} and set HF_TOKEN to a token of the same account, then run it again."


def _page(ref: ModelRef) -> str:
    return f"{_endpoint()}/{ref.base}"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _named(ref: ModelRef) -> str:
    return ref.base if ref.base_revision is None else f"{ref.base} (revision {ref.base_revision})"


def _first_line(problem: Any) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)
