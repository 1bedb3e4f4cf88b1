"""Why a document is not in the result: one sentence that names the stage and the gap, then the numbers behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from ragstone.retrieve.records import ChunkStanding, LegStanding, Span, Standing, WhyNot

CHUNKS_SHOWN = 10
SPANS_SHOWN = 10
PLACE_CHARS = 70
ID_CHARS = 12
SIGNS = {
    "equals": "=", "notEquals": "!=", "greaterThan": ">", "greaterThanOrEquals": ">=", "lessThan": "<",
    "lessThanOrEquals": "<=", "notIn": "not in",
}  # fmt: skip


def why_not_document(found: WhyNot) -> dict[str, Any]:
    """`why-not --json`: the verdict, the sentence, and every number it was made from."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    standing = document.pop("standing")
    if standing is not None and found.standing is not None:
        del standing["rows"], standing["document_id"]
        standing |= {"in_version": found.standing.in_version, "stale": found.standing.stale}
    return {**document, "standing": standing, "says": sentence(found)}


def why_not_page(question: str, found: WhyNot) -> str:
    """The same for people."""
    lines = [f"Q  {question.strip()}", "", f"document   {found.document}"]
    if found.standing is not None:
        lines += _standing(found.standing, found.corpus_version)
    if found.near:
        lines.append(f"near names {', '.join(found.near)}")
    if found.legs:
        lines.append("")
        lines += [f"{name:10} {_leg(leg)}" for name, leg in found.legs.items()]
        if found.words_missing:
            lines.append(f"missing    words of the question that it has not: {', '.join(found.words_missing)}")
    if found.page_end and found.page_end.hits:
        end = found.page_end
        lines.append(f"page       {end.hits} of {end.candidates} candidates, the last with {end.score:.3f}")
    if found.chunks:
        lines += ["", *_chunks(found)]
    return "\n".join([*lines, "", sentence(found)])


def sentence(found: WhyNot) -> str:
    """The stage that lost it and by how much, in one sentence."""
    says = {
        "never_seen": _never_seen, "quarantined": _quarantined, "suppressed": _suppressed,
        "not_in_version": _not_in_version, "filtered": _filtered, "not_candidate": _not_candidate,
        "duplicate": _duplicate, "beyond_page": _beyond_page, "returned": _returned,
    }[found.verdict]  # fmt: skip
    return says(found)


def _never_seen(found: WhyNot) -> str:
    return f"never seen: no version and no quarantine entry knows a document {found.document!r}"


def _quarantined(found: WhyNot) -> str:
    assert found.standing is not None
    entry = found.standing.quarantine
    assert entry is not None
    return f"lost at ingest: in quarantine for {entry.reason}: {entry.message}; next: {entry.next_step}"


def _suppressed(found: WhyNot) -> str:
    assert found.standing is not None
    since = f" since {found.standing.suppressed_at[:19]}" if found.standing.suppressed_at else ""
    return f"deleted: hidden in every version{since}"


def _not_in_version(found: WhyNot) -> str:
    assert found.standing is not None
    spans, version = found.standing.history, found.corpus_version
    before = [span for span in spans if span.since <= version]
    if not before:
        return f"not in version {version}: it came with version {spans[0].since}" if spans else f"not in {version}"
    return f"not in version {version}: removed by version {before[-1].until}, last in {_versions(before[-1])}"


def _filtered(found: WhyNot) -> str:
    parts = []
    for each in found.failed:
        has = f"no {each.key}" if each.actual is None else _written(each.actual)
        sign = SIGNS.get(each.operator, each.operator)
        parts.append(f"{each.key} {sign} {_written(each.value)} is false (the document has {has})")
    return "lost at the filter: " + "; ".join(parts)


def _written(value: Any) -> str:
    """A value as a filter is written."""
    return json.dumps(value, ensure_ascii=False)


def _not_candidate(found: WhyNot) -> str:
    legs = "; ".join(f"{name} {_lost(leg)}" for name, leg in found.legs.items())
    return f"lost in the {' and '.join(found.legs)} legs: {legs}"


def _lost(leg: LegStanding) -> str:
    if leg.reason == "no_chunks":
        return "it has no chunks"
    if leg.reason == "no_words":
        needed = f", the {_ordinal(leg.depth)} had {leg.cutoff:.3f}" if leg.cutoff is not None else ""
        return f"has no word of the question{needed}"
    if leg.reason == "missed":
        return f"would have been in with {leg.score:.3f}, and the walk through the HNSW index passed it by"
    gap = f"{leg.lost_by:.3f} short" if leg.lost_by else "a tie, lost by its place"
    return f"{_rank(leg)} ({leg.score:.3f}, the {_ordinal(leg.depth)} had {leg.cutoff or 0.0:.3f}: {gap})"


def _duplicate(found: WhyNot) -> str:
    twin = found.chunks[0].duplicate_of
    assert twin is not None
    return (
        f"lost at selection: its best chunk has the text of a chunk of {twin.document_id or 'another document'}, "
        f"place {twin.fused_rank} in fused order, and a text is returned once"
    )


def _beyond_page(found: WhyNot) -> str:
    end, best = found.page_end, found.chunks[0]
    assert end is not None
    gap = found.lost_by.get("fused")
    short = (
        ""
        if gap is None
        else f", the last on the page had {end.score:.3f}: "
        + (f"{gap:.3f} short" if gap else "a tie, lost by its chunk id")
    )
    rank = f"rank {found.rank} of {end.candidates}, the page ends at {end.hits}"
    return f"lost at the page: {rank} ({best.score:.3f}{short})"


def _returned(found: WhyNot) -> str:
    hits = found.page_end.hits if found.page_end else 0
    return f"returned: rank {found.rank} of {hits} on the page"


def _standing(standing: Standing, version: int) -> Iterator[str]:
    state = "in" if standing.in_version else "not in"
    yield f"           source {standing.source}, {state} version {version}" + (
        f", object version {standing.object_version[:ID_CHARS]}" if standing.in_version else ""
    )
    if standing.stale and standing.quarantine is not None:
        entry = standing.quarantine
        yield f"stale      an older version of it serves; the newer one is in quarantine for {entry.reason}"
        yield f"           {entry.message}; next: {entry.next_step}"
    if not standing.in_version:
        spans = standing.history[-SPANS_SHOWN:]
        yield from (f"history    {_versions(span)}, object version {span.object_version[:ID_CHARS]}" for span in spans)


def _versions(span: Span) -> str:
    if span.until is None:
        return f"versions {span.since} on"
    last = span.until - 1
    return f"version {last}" if last == span.since else f"versions {span.since} to {last}"


def _leg(leg: LegStanding) -> str:
    searched = f"{leg.path}, {leg.returned} of {leg.matching:,} rows that could match taken"
    if leg.reason == "listed":
        return f"{_rank(leg)} with {leg.score:.3f}  ({searched})"
    return f"not in the list: {_lost(leg)}  ({searched})"


def _rank(leg: LegStanding) -> str:
    if leg.rank is None:
        return f"beyond rank {leg.ranked:,} of {leg.matching:,}"
    return f"{'rank' if leg.rank_exact else 'about rank'} {leg.rank:,} of {leg.matching:,}"


def _chunks(found: WhyNot) -> Iterator[str]:
    shown = found.chunks[:CHUNKS_SHOWN]
    yield f"chunks: {found.chunks_total}" + (f" (best {len(shown)})" if len(shown) < found.chunks_total else "")
    yield f"  {'score':>7} {'bm25':>8} {'rank':>5} {'dense':>7} {'rank':>5}  fate"
    for chunk in shown:
        bm25, dense = chunk.legs["bm25"], chunk.legs["dense"]
        yield (
            f"  {chunk.score:7.3f} {bm25.score:8.3f} {bm25.rank or '–':>5} {dense.score:7.3f} {dense.rank or '–':>5}"
            f"  {_fate(chunk)}  [{chunk.ordinal}] {_place(chunk)}"
        )


def _fate(chunk: ChunkStanding) -> str:
    if chunk.fate is None:
        return "no candidate (the score it would have had)"
    if chunk.duplicate_of is not None:
        return f"duplicate of #{chunk.duplicate_of.fused_rank} {chunk.duplicate_of.document_id}".rstrip()
    return f"{chunk.fate}, rank {chunk.rank}"


def _place(chunk: ChunkStanding) -> str:
    place = " > ".join(chunk.heading_path) or "–"
    return place if len(place) <= PLACE_CHARS else place[: PLACE_CHARS - 1] + "…"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"  # noqa: PLR2004 - 11th, 12th, 13th
