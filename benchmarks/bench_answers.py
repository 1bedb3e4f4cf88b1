"""Extracted answers against gold: abstention (threshold chosen on even ids, errors reported on odd ones),
token F1, and which gold spans were quoted, by kind of question. JSON on stdout.

    python benchmarks/bench_answers.py --handbook examples/handbook --questions evals/handbook/questions.jsonl
    python benchmarks/bench_answers.py --clapnq DIR          (corpus.jsonl and queries.jsonl of ClapNQ's dev split)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import evaluation_system, ingest_into, machine, percentiles
from ragstone.core.deadline import Deadline
from ragstone.core.nouns import Asker
from ragstone.flow import AnswerParts, Outcome, Question, ask


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of token precision and recall (SQuAD, without its article stripping)."""
    a, b = Counter(words(answer)), Counter(words(gold))
    both = (a & b).total()
    return 2 * both / (a.total() + b.total()) if both else 0.0


async def answers(parts: AnswerParts, corpus: str, questions: list[dict]) -> list[Outcome]:
    outcomes = []
    for each in questions:
        asked = Question(each["text"], "default", corpus, Asker(), None, None, Deadline.after(60))
        outcomes.append(await ask(parts, asked))
    return outcomes


def errors(pairs: list[tuple[float, bool]], threshold: float) -> dict[str, float]:
    """Share of answerable questions that got no answer, and of unanswerable ones that got one."""
    missed = [value < threshold for value, answerable in pairs if answerable]
    invented = [value >= threshold for value, answerable in pairs if not answerable]
    return {"missed": round(sum(missed) / len(missed), 3), "invented": round(sum(invented) / len(invented), 3)}


def equal_error(pairs: list[tuple[float, bool]]) -> float:
    def gap(threshold: float) -> float:
        found = errors(pairs, threshold)
        return abs(found["missed"] - found["invented"])

    return min((value for value, _ in pairs), key=gap)


def auc(pairs: list[tuple[float, bool]]) -> float:
    yes = [v for v, a in pairs if a]
    no = [v for v, a in pairs if not a]
    won = sum((y > n) + 0.5 * (y == n) for y in yes for n in no)
    return round(won / (len(yes) * len(no)), 3)


def clapnq_report(questions: list[dict], outcomes: list[Outcome], threshold: float) -> dict:
    rows = []
    for each, outcome in zip(questions, outcomes, strict=True):
        answer = outcome.record.answer
        meta = each["metadata"]
        gold = " ".join(meta.get("selected_sentences") or [])
        f1 = token_f1(forced(outcome), gold) if meta["answerable"] else None
        first = bool(meta["answerable"]) and any(
            set(words(quote)) <= set(words(gold)) for quote in best_quotes(outcome)
        )
        rows.append((int(each["_id"]) % 2 == 0, answer.confidence, bool(meta["answerable"]), f1, first))
    even = [(c, a) for is_even, c, a, _, _ in rows if is_even]
    odd = [(c, a) for is_even, c, a, _, _ in rows if not is_even]
    chosen = equal_error(even)
    f1s = [f1 for is_even, _, _, f1, _ in rows if not is_even and f1 is not None]
    firsts = [first for is_even, _, answerable, _, first in rows if not is_even and answerable]
    return {
        "questions": len(rows),
        "auc_odd": auc(odd),
        "threshold_chosen_on_even": round(chosen, 3),
        "odd_at_chosen": errors(odd, chosen),
        "odd_at_configured": errors(odd, threshold),
        "token_f1_odd_answerable": round(sum(f1s) / len(f1s), 3),
        "best_sentence_is_gold_odd": round(sum(firsts) / len(firsts), 3),
    }


def forced(outcome: Outcome) -> str:
    """What would be quoted if it did not abstain, so that choosing and abstaining are measured apart."""
    table, context = outcome.record.answer.considered, outcome.words.context
    kept = [at for at, fate in enumerate(table["fate"]) if fate in {"chosen", "abstained"}]
    return " ".join(context[table["chunk_id"][at]][table["start"][at] : table["end"][at]] for at in kept)


def best_quotes(outcome: Outcome) -> list[str]:
    table, context = outcome.record.answer.considered, outcome.words.context
    if not table["score"]:
        return []
    at = max(range(len(table["score"])), key=table["score"].__getitem__)
    return [context[table["chunk_id"][at]][table["start"][at] : table["end"][at]]]


def handbook_report(questions: list[dict], outcomes: list[Outcome], split: str) -> dict:
    kinds: dict[str, list[dict]] = {}
    for each, outcome in zip(questions, outcomes, strict=True):
        if each["split"] != split:
            continue
        answer = outcome.record.answer
        row = {"abstained": answer.abstained}
        if each["spans"]:
            spans = quoted_spans(outcome)
            row["quoted"] = sum(any(covers(s, g) for s in spans) for g in each["spans"]) / len(each["spans"])
            row["retrieved"] = sum(
                any(in_hit(hit, g) for hit in outcome.record.retrieval.hits) for g in each["spans"]
            ) / len(each["spans"])
            row["f1"] = token_f1(forced(outcome), " ".join(g["quote"] for g in each["spans"]))
        kinds.setdefault(each["kind"], []).append(row)
    return {kind: summary(rows) for kind, rows in sorted(kinds.items())}


def summary(rows: list[dict]) -> dict:
    names = [name for name in ("abstained", "retrieved", "quoted", "f1") if name in rows[0]]
    return {"n": len(rows), **{name: round(sum(r[name] for r in rows) / len(rows), 3) for name in names}}


def quoted_spans(outcome: Outcome) -> list[tuple[str, int, int]]:
    table = outcome.record.answer.considered
    hits = {hit.chunk_id: hit for hit in outcome.record.retrieval.hits}
    spans = []
    for at, fate in enumerate(table["fate"]):
        if fate in {"chosen", "abstained"}:
            hit = hits[table["chunk_id"][at]]
            spans.append((hit.document_id, hit.start + table["start"][at], hit.start + table["end"][at]))
    return spans


def covers(span: tuple[str, int, int], gold: dict) -> bool:
    overlap = min(span[2], gold["end"]) - max(span[1], gold["start"])
    return span[0] == gold["document"] and overlap > 0.5 * (gold["end"] - gold["start"])


def in_hit(hit: object, gold: dict) -> bool:
    return covers((hit.document_id, hit.start, hit.end), gold)


async def run(args: argparse.Namespace) -> dict:
    out: dict = {"benchmark": "answers", "machine": machine()}
    async with evaluation_system(Path(args.state) if args.state else Path(tempfile.mkdtemp()), args.model) as system:
        out["model"] = args.model
        parts = await system.answer_parts()
        threshold = system.extraction(args.model).threshold
        for name, source, questions in sources(args):
            await ingest_into(system, source, name)
            began = time.perf_counter()
            outcomes = await answers(parts, name, questions)
            out[f"{name}_ms_per_question"] = round((time.perf_counter() - began) * 1e3 / len(questions), 1)
            out[f"{name}_stage_ms"] = percentiles([outcome.record.stage_ms for outcome in outcomes])
            if name == "clapnq":
                out[name] = clapnq_report(questions, outcomes, threshold)
            else:
                out[name] = {split: handbook_report(questions, outcomes, split) for split in ("tune", "test")}
    return out


def sources(args: argparse.Namespace) -> list[tuple[str, str, list[dict]]]:
    found = []
    if args.handbook:
        lines = Path(args.questions).read_text("utf-8").splitlines()
        found.append(("handbook", args.handbook, [json.loads(line) for line in lines][: args.limit]))
    if args.clapnq:
        lines = (Path(args.clapnq) / "queries.jsonl").read_text("utf-8").splitlines()
        found.append(("clapnq", str(Path(args.clapnq) / "corpus.jsonl"), [json.loads(x) for x in lines][: args.limit]))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--handbook")
    parser.add_argument("--questions", default="evals/handbook/questions.jsonl")
    parser.add_argument("--clapnq")
    parser.add_argument("--model", default="bge-small-en-v1.5-int8")
    parser.add_argument("--state", help="a state directory to keep, so that a second run embeds nothing")
    parser.add_argument("--limit", type=int, default=None)
    print(json.dumps(asyncio.run(run(parser.parse_args())), indent=2))
