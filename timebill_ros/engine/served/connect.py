# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine on a server: its address, its secret, what it runs."""

from __future__ import annotations

import ipaddress
import logging
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.errors import EngineError, ServerError
from timebill_ros.engine.protocol import Waiting, patiently
from timebill_ros.engine.request import SamplingOverride
from timebill_ros.engine.served.connection import Address, Connection
from timebill_ros.engine.served.engine import ServedEngine
from timebill_ros.engine.served.flavors import flavor_of
from timebill_ros.engine.served.request import ServedModel

_LOG = logging.getLogger(__name__)

_MOST_KEY = 4096  # bytes of a key's file
_SUPPOSED_CONTEXT = 4096  # tokens, where neither the user nor the server says
_MOST_CONTEXT = 10_000_000
_SHOWN_MODELS = 5
_SHOWN = 100  # characters of a name


@dataclass(frozen=True)
class ServedSettings:
    """What can be chosen of an engine on a server, under the names of the node's parameters.

    Attributes:
        url: the server's address, with or without OpenAI's /v1.
        model: as the server calls it; "" for the only one that it has.
        api_key_file: file that holds the secret; "" for none.
        request_timeout: s, most that one request may take, whatever its deadline.
        server_flavor: "auto", or one of ``flavors.FLAVORS``.
        server_priority: the server schedules by priority.
        max_context: tokens; 0 for what the server says.
        window: the last prompt tokens, which selection keeps.
        sampling: of requests that set none; every value set.
    """

    url: str
    model: str = ""
    api_key_file: str = ""
    request_timeout: float = 60.0
    server_flavor: str = "auto"
    server_priority: bool = False
    max_context: int = 0
    window: int = 64
    sampling: SamplingOverride = field(
        default_factory=lambda: SamplingOverride(temperature=0.0, top_p=1.0, seed=0, stop=())
    )


def connect(settings: ServedSettings, waiting: Waiting = patiently) -> ServedEngine:
    """The engine of a server that is there.

    Raises:
        SettingError: a setting that cannot be worked with, by name.
        ServerUnavailable, ServerFault: the server is not there, or is none of this kind.
        Exception: whatever ``waiting`` raised.
    """
    url, key = checked_url(settings.url), read_key(settings.api_key_file)
    if key and not _private(url):
        _LOG.warning("url: the key of api_key_file goes over http, where others can read it")
    connection = Connection(Address(url, key, settings.request_timeout))
    try:
        models = connection.get("/v1/models", waiting)
        flavor = flavor_of(settings.server_flavor, models)
        row = _chosen(models, settings.model)
        context = settings.max_context or _told_context(connection, row, flavor.name, waiting)
        model = ServedModel(
            str(row["id"]),
            flavor,
            context,
            settings.window,
            settings.sampling,
            settings.server_priority,
        )
        _LOG.info("%s serves %r, taken for %s", url, model.name[:_SHOWN], flavor.name)
        return ServedEngine(connection, model)
    except BaseException as failure:
        connection.close()
        if isinstance(failure, ServerError):
            raise type(failure)(f"{url}: {failure.reason}") from None
        raise


def checked_url(url: str) -> str:
    """The server's root without a slash at its end and without /v1.

    Raises:
        SettingError: it is no address, or holds what would be shown with it, a password say.
    """
    try:
        parts = urlsplit(url.strip())
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        raise SettingError("url", "what was given", "http://HOST:PORT or https://HOST") from None
    # Shown nowhere: parameters are read by everybody.
    if parts.username or parts.password or parts.query or parts.fragment:
        bound = "an address alone, without user, secret, query or fragment"
        raise SettingError("url", "what was given", bound)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known:
        raise SettingError("url", url, "http://HOST:PORT or https://HOST")
    if not url.isascii() or any(character.isspace() for character in url.strip()):
        raise SettingError("url", url, "of ASCII characters without spaces")
    return url.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def read_key(file: str) -> str:
    """The secret in a file; "" where none is named.

    Raises:
        SettingError: the file cannot be read, or holds no key. What it holds is never told.
    """
    if not file:
        return ""
    path = Path(file).expanduser()
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SettingError("api_key_file", file, "a regular file")
        with path.open("rb") as opened:
            content = opened.read(_MOST_KEY + 1)
    except OSError as error:
        raise SettingError("api_key_file", file, f"readable ({error.strerror})") from None
    try:
        key = content.decode("ascii").strip()
    except UnicodeDecodeError:
        key = ""
    if len(content) > _MOST_KEY or not key or not key.isprintable() or " " in key:
        raise SettingError("api_key_file", file, "a file that holds one key and nothing else")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _LOG.warning("api_key_file: others may read it; chmod 600 keeps them from it")
    return key


def _private(url: str) -> bool:
    """Whether what is sent there is read by nobody on the way."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _chosen(models: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The row of the model in the server's list.

    Raises:
        SettingError: it is not there, or none is named and there are several.
    """
    data = models.get("data")
    rows = [
        row
        for row in (data if isinstance(data, list) else [])
        if isinstance(row, dict) and isinstance(row.get("id"), str)
    ]
    found = [row for row in rows if name in ("", row["id"])]
    if len(found) == 1 or (found and name):
        return found[0]
    # Servers that load models on demand list those that were loaded before.
    if name and not rows:
        return {"id": name}
    shown = ", ".join(repr(row["id"][:_SHOWN]) for row in rows[:_SHOWN_MODELS])
    raise SettingError("model", name, f"one of the server's: {shown or 'it names none'}")


def _told_context(
    connection: Connection, row: Mapping[str, Any], flavor: str, waiting: Waiting
) -> int:
    """The longest context that the server tells, in its flavor's place."""
    meta = row.get("meta")
    found = [row.get("max_model_len")]
    if flavor == "llamacpp":
        found.append(_slot_context(connection, waiting))
    if isinstance(meta, dict):
        found += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    for context in found:
        if isinstance(context, int) and 0 < context <= _MOST_CONTEXT:
            return context
    _LOG.warning(
        "max_context: the server does not tell its own, %d tokens are taken for it",
        _SUPPOSED_CONTEXT,
    )
    return _SUPPOSED_CONTEXT


def _slot_context(connection: Connection, waiting: Waiting) -> object:
    """What llama.cpp gives each request; None where it does not tell."""
    try:
        told = connection.get("/props", waiting).get("default_generation_settings")
    except EngineError:
        return None
    return told.get("n_ctx") if isinstance(told, dict) else None
