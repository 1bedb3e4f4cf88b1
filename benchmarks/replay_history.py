"""A handbook's history, month by month: each month is ingested, proven by an audit, and asked.

After every month: time, embeddings made, rows opened and closed, whether `audit` is clean. At the end: the questions
of every month (the subject of a commit, answered by the one page it changed) put to the version of that month and to
older ones, by `--as-of`: what an index loses that is not refreshed.

    python benchmarks/replay_history.py --data PATH_OF_HISTORY --out history.json --plot history.svg

The data: `events.jsonl` (month, op, doc, blob), `texts.jsonl.gz` (blob, text), `commit_queries.jsonl` (ts, text, doc).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import evaluation_system, ingest_into, machine
from ragstone.bootstrap import System
from ragstone.core.deadline import Deadline
from ragstone.core.errors import NotFound
from ragstone.core.nouns import Asker
from ragstone.entrypoints.repair import audit_parts
from ragstone.flow import AnswerParts
from ragstone.index.audit.stage import audit
from ragstone.retrieve.stage import Ask, Clock

CORPUS = "history"
AGES = (0, 3, 6, 12, 24, 48)
TOP = 10
KEEP = 100_000
COLOURS = {"hit@10": "#1f6f8b", "same title": "#5a9367", "dead hits": "#b3541e"}


def months_of(data: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Each month with what it changed: text by path, None for a page that went."""
    with gzip.open(data / "texts.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = {each["blob"]: each["text"] for each in map(json.loads, lines)}
    by_month: dict[str, list[dict]] = {}
    with (data / "events.jsonl").open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            by_month.setdefault(event["month"], []).append(event)
    for month in sorted(by_month):
        # A move is a deletion and an addition: deletions first.
        events = sorted(by_month[month], key=lambda each: each["op"] != "delete")
        yield month, {e["doc"]: None if e["op"] == "delete" else texts[e["blob"]] for e in events}


def apply(folder: Path, changes: dict[str, str | None]) -> None:
    for name, text in changes.items():
        path = folder / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


async def clean(system: System) -> dict:
    """What an audit of the head says."""
    began = time.perf_counter()
    report = await audit(await audit_parts(system), "default", CORPUS)
    differences = [f"{each.store} {each.name}: {each.detail}" for each in report.findings[:5]]
    return {
        "clean": report.clean,
        "differences": differences,
        "audit_s": round(time.perf_counter() - began, 2),
    }


async def replay(system: System, folder: Path, data: Path, months: int) -> list[dict]:
    """Ingest the months one after the other; a line each."""
    lines = []
    for month, changes in list(months_of(data))[:months]:
        apply(folder, changes)
        began = time.perf_counter()
        report = await ingest_into(system, str(folder), CORPUS, allow_delete=True)
        published = report.published
        lines.append({
            "month": month,
            "version": published.version if published else (lines[-1]["version"] if lines else 0),
            "documents": report.scanned,
            "changed": report.changed,
            "removed": published.removed if published else 0,
            "quarantined": len(report.quarantined),
            "chunks": published.rows if published else (lines[-1]["chunks"] if lines else 0),
            "rows_opened": published.rows_opened if published else 0,
            "rows_closed": published.rows_closed if published else 0,
            "embedded": report.tally.embedded,
            "cached": report.tally.cached,
            "ingest_s": round(time.perf_counter() - began, 2),
            **await clean(system),
        })  # fmt: skip
        print(json.dumps(lines[-1]), file=sys.stderr)
    return lines


async def ask(system: System, data: Path, lines: list[dict]) -> list[dict]:
    """Hit@10 and dead hits of every month's questions, by the age of the version that answers them."""
    questions = [json.loads(line) for line in (data / "commit_queries.jsonl").read_text("utf-8").splitlines()]
    at = {line["month"]: place for place, line in enumerate(lines)}
    parts = await system.answer_parts()
    tables = []
    # Every age gets the same questions: those of months that have a version so old.
    ages = [age for age in AGES if age < max(2, len(lines) // 2)]
    for age in ages:
        hits = titled = dead = found = asked = 0
        for question in questions:
            place = at.get(question["ts"][:7])
            if place is None or place < ages[-1]:
                continue
            now, then = lines[place]["version"], lines[place - age]["version"]
            alive = await known(system, now)
            if question["doc"] not in alive:
                continue
            documents = await top(parts, question["text"], then)
            asked += 1
            hits += question["doc"] in documents
            titled += question["doc"] in documents or alive[question["doc"]] in documents.values()
            found += len(documents)
            dead += sum(each not in alive for each in documents)
        tables.append({
            "age_months": age, "questions": asked, "hit@10": round(hits / asked, 4) if asked else None,
            # A page that moved is counted as found when one with its title is.
            "hit@10_by_title": round(titled / asked, 4) if asked else None,
            "dead_hits": round(dead / found, 4) if found else None,
        })  # fmt: skip
        print(json.dumps(tables[-1]), file=sys.stderr)
    return tables


async def top(parts: AnswerParts, text: str, version: int) -> dict[str, str]:
    """The first ten documents for a question in a version, with their titles."""
    view, embedding = await parts.catalog.view("default", CORPUS, str(version), Asker())
    retriever = await parts.retriever(embedding)
    documents: dict[str, str] = {}
    offset = 0
    while len(documents) < TOP:
        found = await retriever.retrieve(view, Ask(text, None, 30, offset, Deadline.after(30)), Clock())
        for hit in found.record.hits:
            if len(documents) < TOP:
                documents.setdefault(hit.key, hit.title)
        offset += 30
        if not found.has_more:
            break
    return documents


_known: dict[int, dict[str, str]] = {}


async def known(system: System, version: int) -> dict[str, str]:
    """The documents that a version holds, with their titles."""
    if version not in _known:
        library, cursor, names = await system.library(), "", {}
        while cursor is not None:
            try:
                page = await library.documents("default", CORPUS, Asker(), str(version), cursor, 1000)
            except NotFound:
                break
            names |= {line.key: line.title for line in page.items if line.state != "quarantined"}
            cursor = page.next_cursor
        _known[version] = names
    return _known[version]


def plot(tables: list[dict], lines: list[dict]) -> str:
    """Two charts as SVG: what a stale index loses by its age, and what each month cost."""
    width, height, gap = 420, 200, 60
    body = []

    def frame(left: int, title: str) -> None:
        body.append(f'<text x="{left}" y="18" font-weight="bold">{title}</text>')
        body.append(f'<path d="M{left} 30v{height}h{width}" fill="none" stroke="#999"/>')

    def line(left: int, values: list[float], top_value: float, colour: str) -> None:
        step = width / max(1, len(values) - 1)
        points = [f"{left + n * step:.1f},{30 + height - v / top_value * height:.1f}" for n, v in enumerate(values)]
        body.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')

    left = 40
    frame(left, "questions of a month, by the age of the index")
    asked = [each for each in tables if each["questions"]]
    for key, name in (("hit@10", "hit@10"), ("hit@10_by_title", "same title"), ("dead_hits", "dead hits")):
        line(left, [each[key] for each in asked], 1.0, COLOURS[name])
        last = asked[-1][key]
        body.append(
            f'<text x="{left + 60}" y="{30 + height - last * height - 8:.0f}" fill="{COLOURS[name]}">{name}</text>'
        )
    for n, each in enumerate(asked):
        x = left + n * width / max(1, len(asked) - 1)
        body.append(f'<text x="{x - 6:.0f}" y="{height + 48}">{each["age_months"]}</text>')
        body.append(
            f'<text x="{x - 14:.0f}" y="{30 + height - each["hit@10"] * height - 6:.0f}">{each["hit@10"]:.3f}</text>'
        )
    body.append(f'<text x="{left + width / 2 - 20:.0f}" y="{height + 64}">months old</text>')
    left += width + gap
    frame(left, "chunks embedded (blue) of chunks live (orange), by month")
    top_value = max(each["chunks"] for each in lines) or 1
    line(left, [each["chunks"] for each in lines], top_value, COLOURS["dead hits"])
    line(left, [each["embedded"] for each in lines], top_value, COLOURS["hit@10"])
    body.append(f'<text x="{left}" y="{height + 48}">{lines[0]["month"]}</text>')
    body.append(f'<text x="{left + width - 50}" y="{height + 48}">{lines[-1]["month"]}</text>')
    body.append(f'<text x="{left + width - 60}" y="44">{top_value}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{height + 80}"'
        ' font-family="sans-serif" font-size="12">' + "".join(body) + "</svg>\n"
    )


async def run(args: argparse.Namespace) -> dict:
    state = Path(args.state or tempfile.mkdtemp(prefix="ragstone-history-", dir="/tmp"))
    folder = Path(tempfile.mkdtemp(prefix="ragstone-pages-", dir="/tmp"))
    try:
        async with evaluation_system(state, args.model, RAGSTONE_VERSIONS_KEEP=str(KEEP)) as system:
            lines = await replay(system, folder, args.data, args.months)
            tables = await ask(system, args.data, lines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not args.state:
            shutil.rmtree(state, ignore_errors=True)
    if args.plot:
        args.plot.write_text(plot(tables, lines), "utf-8")
    return {
        "machine": machine(),
        "model": args.model,
        "months": len(lines),
        "all_clean": all(line["clean"] for line in lines),
        "embedded": sum(line["embedded"] for line in lines),
        "ingest_s": round(sum(line["ingest_s"] for line in lines), 1),
        "audit_s": round(sum(line["audit_s"] for line in lines), 1),
        "by_age": tables,
        "by_month": lines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--months", type=int, default=1000)
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    parser.add_argument("--state", default="")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = json.dumps(asyncio.run(run(args)), indent=1)
    if args.out:
        args.out.write_text(found + "\n", "utf-8")
    print(found)


if __name__ == "__main__":
    main()
