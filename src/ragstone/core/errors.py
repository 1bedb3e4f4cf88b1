"""Every error a user can meet, with its exit code, its HTTP status and the next thing to do.

RagstoneError
├── Transient                 the same call may succeed later
│   ├── Busy                  a lock or lease is held           exit 75, HTTP 503
│   ├── Unavailable           a part does not answer            exit 1,  HTTP 503
│   └── DeadlineExceeded      the caller's time is used up      exit 1,  HTTP 504
└── Terminal                  the same call fails again
    ├── UsageError            the caller's words are wrong      exit 2,  HTTP 400
    │   └── NotFound          a name that does not exist        exit 2,  HTTP 404
    ├── CheckRefused          a guard said no                   exit 3,  HTTP 409
    ├── IntegrityError        bytes are not what they must be   exit 1,  HTTP 500
    ├── ResourceExhausted     disk or memory is full            exit 1,  HTTP 507
    └── DocumentRejected      one document goes to quarantine   (never ends a command)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class RagstoneError(Exception):
    """What went wrong with which thing, what was being done, and the next step.

    `what` names the thing and the fault; `doing` is what was being done; `next_step` is a
    command or an edit the reader can make now.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "failed"

    def __init__(self, what: str, *, doing: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.doing = doing
        self.next_step = next_step

    def __str__(self) -> str:
        parts = [self.what]
        if self.doing:
            parts.append(f"while {self.doing}")
        text = " ".join(parts)
        return f"{text}\n  next: {self.next_step}" if self.next_step else text


class Transient(RagstoneError):
    """The same call may succeed later."""

    http_status = 503
    code = "transient"


class Busy(Transient):
    """A lock or a lease is held by somebody else."""

    exit_code = 75
    code = "busy"


class Unavailable(Transient):
    """A part that is needed does not answer."""

    code = "unavailable"


class DeadlineExceeded(Transient):
    """The time that the caller gave is used up."""

    http_status = 504
    code = "deadline_exceeded"


class Terminal(RagstoneError):
    """The same call fails again until something is changed."""

    code = "terminal"


class UsageError(Terminal):
    """The caller's words are wrong."""

    exit_code = 2
    http_status = 400
    code = "usage"


class NotFound(UsageError):
    """A name that does not exist here."""

    http_status = 404
    code = "not_found"


def unknown_document(document: str, corpus: str) -> NotFound:
    """What is said of a name that no document has, and of one that the asker may not know of."""
    return NotFound(
        f"unknown document {document!r} in corpus {corpus!r}",
        doing="looking up a document",
        next_step="see which there are: ragstone documents list",
    )


def ambiguous_document(document: str, names: Iterable[str]) -> UsageError:
    """What is said of a key that several sources have; `names` are the full ones."""
    return UsageError(
        f"document {document!r} is in several sources: {', '.join(names)}",
        doing="looking up a document",
        next_step="name one of them as SOURCE:ID",
    )


def no_longer_kept(version: int) -> NotFound:
    """What a read of a version is told that retention let go while it was under way."""
    return NotFound(
        f"version {version} is no longer kept",
        doing="reading the version",
        next_step="ask again, or see which there are: ragstone versions list",
    )


class CheckRefused(Terminal):
    """A guard said no: nothing was changed."""

    exit_code = 3
    http_status = 409
    code = "refused"


class IntegrityError(Terminal):
    """Bytes are not what they must be."""

    code = "integrity"


class ResourceExhausted(Terminal):
    """Disk or memory is full."""

    http_status = 507
    code = "exhausted"


class DocumentRejected(Terminal):
    """One document cannot be used; it goes to quarantine and the run goes on.

    `reason` is a stable code (`invalid_utf8`, `too_large`, ...), `field` names the part of the
    document at fault where there is one.
    """

    code = "document_rejected"

    def __init__(self, what: str, *, reason: str, field: str = "", next_step: str = "") -> None:
        super().__init__(what, doing="ingesting a document", next_step=next_step)
        self.reason = reason
        self.field = field
