"""URLs as texts: what names the file there, what may be shown, and what tells one file from another."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

URL = re.compile(r"([a-z][a-z0-9+.-]+)://(?:([^/]*)@)?(.*)", re.DOTALL)
"""Scheme, user info, and the rest. A URL may be several, joined with ``::``."""

WEB = ("http", "https")
"""Schemes whose URLs have a query. Elsewhere, fsspec takes ``?`` and ``#`` for letters of a name."""

PLACES = ("abfs", "abfss", "az", "github", "oci")
"""Schemes that write a container or a repository where others have the user."""

SIGNED = "x-(amz|goog)-.*"
"""Pattern of the parameters with which S3 and Google sign a URL, in lower case."""

SIGNATURES = {
    "sig": "s[eiprstv]|sip|spr|srt|sk([estv]|oid|tid)",  # Azure
    "signature": "expires|key-pair-id|policy|hash-algorithm|(awsaccesskey|googleaccess)id",  # CloudFront, old S3
}
"""Parameter with a signature -> pattern of those that come with it, in lower case. Alone, they may mean anything."""


def is_url(text: str) -> bool:
    """Return True if a text names something that is not a path. C:\\ and the like are paths."""
    return bool(URL.match(text))


def shown(text: str) -> str:
    """Return a URL without passwords and keys: without user info and, on the web, without query. Paths stay."""
    return "::".join(map(_shown, text.split("::"))) if is_url(text) else text


def cleaned(text: str, url: str) -> str:
    """Return a text, such as an error's, with this URL and all others as they may be shown."""
    text = text.replace(url, shown(url))
    return re.sub(r"[a-z][a-z0-9+.-]+://[^\s'\"]+", lambda found: shown(found[0]), text)


def key_of(url: str) -> str:
    """Return what stays the same while a URL means the same file, though its password or signature changes.

    It is the URL as it may be shown. A fingerprint follows if a user or a query is left out that may choose the file,
    as in ``?id=3``.
    """
    chosen = "".join(map(_chosen, url.split("::")))
    return f"{shown(url)}#{hashlib.sha256(chosen.encode()).hexdigest()[:16]}" if chosen else shown(url)


def path_of(name: str) -> PurePosixPath:
    """Return the path in what fsspec calls a file: on the web, that is its whole URL."""
    if not name.startswith(tuple(f"{scheme}://" for scheme in WEB)):
        return PurePosixPath(name)
    path = PurePosixPath(unquote(urlsplit(name).path))
    return path if path.name.strip(".") else PurePosixPath("/photo")


def _shown(text: str) -> str:
    parts = URL.match(text)
    if not parts:
        return text
    scheme, user, rest = parts.groups()
    place = f"{user}@" if user and scheme in PLACES else ""
    return f"{scheme}://{place}{re.split('[?#]', rest)[0] if scheme in WEB else rest}"


def _chosen(text: str) -> str:
    """Return what of a URL is not shown, but may choose the file."""
    parts = URL.match(text)
    if not parts:
        return ""
    scheme, user, _ = parts.groups()
    if scheme not in WEB:
        return "" if scheme in PLACES else (user or "").partition(":")[0]
    query = parse_qsl(text.partition("#")[0].partition("?")[2], keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    marks = [mark for mark in SIGNATURES if mark in names]
    signing = "|".join([SIGNED, *marks, *(SIGNATURES[mark] for mark in marks)])
    return urlencode([(name, value) for name, value in query if not re.fullmatch(signing, name.lower())])
