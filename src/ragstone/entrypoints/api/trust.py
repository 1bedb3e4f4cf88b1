"""Who asks. Until callers can prove who they are, only this machine is believed; all others are public.

A caller may name principals (`as`) when all of this holds: the server listens on a loopback address alone;
the request names a loopback host (else a foreign page could reach us through a name it points at 127.0.0.1);
it did not come through a proxy; no other site's page sent it. In every other case the asker is `public`, and
the header `X-Ragstone-As` of the response says so.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ragstone.core.nouns import PUBLIC, Asker
from ragstone.entrypoints.api.problems import HttpError

if TYPE_CHECKING:
    from starlette.requests import Request

    from ragstone.entrypoints.api.requests import Principals

PRINCIPALS_MAX = 100
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
OWN_SITE = frozenset({"same-origin", "none"})
NEXT = 'write it like "user:ann,group:hr" or ["user:ann", "group:hr"]'


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine."""
    bare = host.strip("[]").partition("%")[0]
    if bare.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def is_believed(request: Request, *, loopback_only: bool) -> bool:
    """Whether this request may say who asks."""
    headers = request.headers
    return (
        loopback_only
        and is_loopback(_host_name(headers.get("host", "")))
        and not any(name in headers for name in FORWARDED)
        and headers.get("sec-fetch-site", "none") in OWN_SITE
    )


def asker_of(principals: Principals | None, *, believed: bool) -> Asker:
    """The asker: the named principals when they are believed, else the public."""
    named = principals.split(",") if isinstance(principals, str) else principals or []
    if len(named) > PRINCIPALS_MAX:
        raise _wrong(f"there are {len(named)} principals, at most {PRINCIPALS_MAX} are allowed")
    words = frozenset(word.strip() for word in named if word.strip())
    if not all(word.isprintable() for word in words):
        raise _wrong("a principal holds a control character")
    return Asker(words | {PUBLIC}) if believed else Asker()


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0]
    return header.partition(":")[0]


def _wrong(what: str) -> HttpError:
    return HttpError(what, field="as", doing="reading the request", next_step=NEXT)
