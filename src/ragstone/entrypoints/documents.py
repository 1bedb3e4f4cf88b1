"""The JSON documents that the command line and the HTTP interface both show, and the cursors between pages.

One function a document: `search --json` and `POST /v1/search` are the same bytes but for id and times.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from ragstone.core.errors import UsageError
from ragstone.core.filters import Filter, to_json
from ragstone.core.money import usd
from ragstone.retrieve.why import hit_json

if TYPE_CHECKING:
    from ragstone.core.evidence import AnswerRecord, Evidence, EvidenceText
    from ragstone.flow import Outcome

TENANT = "default"
CORPUS = "default"

# No depth reaches further; a forged offset must not become a huge loop.
OFFSET_MAX = 100_000
CURSOR_CHARS_MAX = 500
CURSOR_NEXT = "leave the cursor out to begin again at the first page"


def search_document(outcome: Outcome, next_cursor: str | None) -> dict[str, Any]:
    """The hits of one page with their reasons: `search --json`."""
    record, words = outcome.record, outcome.words
    return {
        "id": record.id,
        "query": words.question,
        "corpus": record.corpus,
        "release": record.release,
        "corpus_version": record.corpus_version,
        "hits": [hit_json(record.retrieval, hit, words.context.get(hit.chunk_id, "")) for hit in record.retrieval.hits],
        "next_cursor": next_cursor,
        "degraded": [msgspec.to_builtins(each) for each in record.degraded],
        "timings_ms": dict(record.stage_ms),
    }


def answer_document(outcome: Outcome) -> dict[str, Any]:
    """The search document and the answer made from it: `ask --json`.

    An abstention has no sentences, and `answer` is None. `reason` and `confidence` say what the decision to
    answer or abstain was made from; all its numbers are in the evidence.
    """
    record, answer = outcome.record, outcome.record.answer
    assert answer is not None, "only a question that was asked has an answer document"
    return {
        **search_document(outcome, None),
        "answer": None if answer.abstained else outcome.words.answer,
        "sentences": _sentences(answer),
        "abstained": answer.abstained,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "model": answer.model,
        "prompt": answer.prompt,
        "usage": {f"{kind}_tokens": count for kind, count in record.tokens.items()},
        "cost_usd": usd(record.cost_microusd),
    }


def evidence_document(record: Evidence, words: EvidenceText | None) -> dict[str, Any]:
    """A record with its words; `words` is None when they were erased."""
    document: dict[str, Any] = msgspec.to_builtins(record)
    document["cost_usd"] = usd(record.cost_microusd)
    document["words"] = None if words is None else msgspec.to_builtins(words)
    return document


def _sentences(answer: AnswerRecord) -> list[dict[str, Any]]:
    fields = ("chunk_id", "document_id", "source_version", "start", "end", "quote")
    return [
        {
            "text": sentence.text,
            "citations": [{name: getattr(citation, name) for name in fields} for citation in sentence.citations],
            "support": sentence.support,
        }
        for sentence in answer.sentences
    ]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a page begins: hits before it, the version the first page saw, and whose cursor it is."""

    offset: int
    version: int
    digest: str


def cursor_after(outcome: Outcome) -> str | None:
    """The cursor of the page after this one, None when it was the last."""
    if not outcome.has_more:
        return None
    record, retrieval = outcome.record, outcome.record.retrieval
    digest = _digest(outcome.words.question, retrieval.filter, record.corpus)
    return _encoded(Place(retrieval.offset + retrieval.limit, record.corpus_version, digest))


def encode_cursor(offset: int, version: int, query: str, filters: Filter | None, corpus: str) -> str:
    """An opaque word for the page of a query that begins after `offset` hits."""
    return _encoded(Place(offset, version, _digest(query, _filter_json(filters), corpus)))


def decode_cursor(cursor: str, query: str, filters: Filter | None, corpus: str) -> Place:
    """The place that a cursor names. UsageError when it is damaged or of another query, filter or corpus."""
    place = _decoded(cursor)
    if place is None or not 0 < place.offset <= OFFSET_MAX or place.version < 1:
        raise _wrong("the cursor is damaged")
    if place.digest != _digest(query, _filter_json(filters), corpus):
        raise _wrong("the cursor belongs to another query, filter or corpus")
    return place


def begin_page(
    cursor: str | None, as_of: str | None, query: str, filters: Filter | None, corpus: str
) -> tuple[int, str | None]:
    """The offset and `as_of` of a page: a cursor keeps to the version it began with, whatever came since.

    UsageError when the caller names another version number beside the cursor.
    """
    if not cursor:
        return 0, as_of
    place = decode_cursor(cursor, query, filters, corpus)
    if as_of is not None and as_of.isdecimal() and as_of != str(place.version):
        raise _wrong(f"the cursor belongs to version {place.version}, not {as_of}")
    return place.offset, str(place.version)


def _encoded(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _decoded(cursor: str) -> Place | None:
    if len(cursor) > CURSOR_CHARS_MAX:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=Place)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _filter_json(filters: Filter | None) -> dict[str, Any] | None:
    return None if filters is None else to_json(filters)


def _digest(query: str, filters: dict[str, Any] | None, corpus: str) -> str:
    body = msgspec.json.encode([query, filters, corpus], order="sorted")
    return hashlib.blake2b(body, digest_size=8, person=b"cursor").hexdigest()


def _wrong(what: str) -> UsageError:
    return UsageError(what, doing="reading the cursor", next_step=CURSOR_NEXT)
