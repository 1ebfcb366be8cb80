"""Where an HTTP suspect is asked and with which headers, filled in from the environment: values that no message may quote."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from taggants.errors import InputError


def http_address(httpx: Any, url: str, headers: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    """Returns the url, its host and the headers, with $NAME and ${NAME} replaced by what the environment says.

    httpx: the library, which is an extra.

    Raises:
        InputError: a variable is not set, or the library would refuse what comes out, and quote it.
    """
    filled = _from_environment(url, "url")
    sent = {name: _from_environment(value, f"headers.{name}") for name, value in headers.items()}
    match = re.fullmatch(r"https?://(?P<host>[^/?#@\s]+)([/?#]\S*)?", filled)
    if match is None:
        raise InputError("the url of an HTTP suspect must begin with http:// or https:// and a host, without user@")
    try:
        httpx.URL(filled)
    except (httpx.InvalidURL, ValueError):  # a ValueError of its host's name
        raise InputError(f"the url of the HTTP suspect, {url}, is none with its variables; correct it") from None
    for name, value in sent.items():
        if not re.fullmatch("([!-~]([ -~]*[!-~])?)?", value) or not re.fullmatch("[A-Za-z0-9_-]+", name):
            raise InputError(
                f"headers.{name} of the HTTP suspect must be printable ASCII without spaces around it; correct the "
                "description, or the environment variable in it"
            )
    return filled, match["host"], {"Accept-Encoding": "identity", **sent}


def _from_environment(text: str, field: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise InputError(
                f"{field} of the HTTP suspect needs the environment variable {name}, which is not set; set it"
            )
        return os.environ[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)
