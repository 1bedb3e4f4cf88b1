"""Questions and judgements from files: BEIR (`queries.jsonl`, `qrels.tsv`) and TREC qrels; runs in TREC format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ragstone.core.errors import UsageError

DOING = "reading judged questions"
BEIR_COLUMNS = 3
TREC_COLUMNS = 4


def read_queries(path: Path) -> dict[str, str]:
    """id -> text from a .jsonl of {"_id", "text"}. UsageError names the line."""
    queries: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            ident, text = str(record["_id"]), str(record["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise _wrong(path, number, f"not a JSON object with _id and text ({error})") from None
        if ident in queries:
            raise _wrong(path, number, f"the id {ident!r} comes twice")
        queries[ident] = text
    if not queries:
        raise UsageError(f"{path} holds no questions", doing=DOING, next_step='write lines of {"_id": …, "text": …}')
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """query -> document -> relevance, from BEIR's three columns (with its header) or TREC's four."""
    judgements: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and fields[0].replace("_", "-") == "query-id"):
            continue
        if len(fields) == BEIR_COLUMNS:
            query, document, relevance = fields
        elif len(fields) == TREC_COLUMNS:
            query, _, document, relevance = fields
        else:
            raise _wrong(path, number, f"{len(fields)} columns where 3 (BEIR) or 4 (TREC) are expected")
        try:
            judgements.setdefault(query, {})[document] = int(float(relevance))
        except ValueError:
            raise _wrong(path, number, f"{relevance!r} is no relevance") from None
    return judgements


def run_lines(runs: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> list[str]:
    """A run in TREC format: `query Q0 document rank score tag`."""
    return [
        f"{query} Q0 {document} {rank} {score:.6f} {tag}"
        for query, ranked in runs.items()
        for rank, (document, score) in enumerate(ranked, 1)
    ]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", doing=DOING, next_step="check the path") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}", doing=DOING, next_step="convert it") from None


def _wrong(path: Path, number: int, what: str) -> UsageError:
    return UsageError(f"{path}:{number}: {what}", doing=DOING, next_step="mend that line")
