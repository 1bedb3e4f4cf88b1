"""Records as pages for people: an answer, a search, a trace. Everything shown is read off the record."""

from __future__ import annotations

from collections.abc import Iterable

from ragstone.core.evidence import AnswerRecord, Evidence, EvidenceText, HitRecord, RetrievalRecord
from ragstone.core.money import usd
from ragstone.core.sentences import plain
from ragstone.retrieve.why import why

TEXT_CHARS = 280
CANDIDATES_SHOWN = 20
TERMS_SHOWN = 6
STAGES = ("view", "load", "embed", "bm25", "dense", "score", "fuse", "passages", "answer", "total")
ABSTAINED = "The documents do not answer this question."


def answer_page(record: Evidence, words: EvidenceText, *, why: bool) -> str:
    """A cited answer: sentences with marks, then what each mark quotes and why that passage was chosen."""
    assert record.answer is not None
    lines = [f"Q  {words.question.strip()}", ""]
    lines += _answer(record.answer)
    cited = [citation.chunk_id for sentence in record.answer.sentences for citation in sentence.citations]
    shown = [hit for hit in record.retrieval.hits if why or hit.chunk_id in cited]
    if record.answer.abstained:
        shown = shown if why else record.retrieval.hits[:2]
    heading = (
        "Passages read and why" if why else "Nearest passages" if record.answer.abstained else "Why these passages"
    )
    lines += ["", heading]
    for hit in shown:
        lines += _hit(record.retrieval, hit)
    lines += ["", *_footer(record)]
    return "\n".join(lines)


def search_page(record: Evidence, words: EvidenceText, following: str | None) -> str:
    """Hits with their reasons."""
    lines = [f"Q  {words.question.strip()}", ""]
    if not record.retrieval.hits:
        lines.append("No passage passes.")
    for hit in record.retrieval.hits:
        lines += _hit(record.retrieval, hit)
        lines += [f"     {_short(words.context.get(hit.chunk_id, ''), TEXT_CHARS)}", ""]
    lines += _footer(record)
    if following:
        lines.append(f"next page: --cursor {following}")
    return "\n".join(lines)


def trace_page(record: Evidence, words: EvidenceText | None) -> str:
    """The whole record: question, stages with times, candidates with reasons, what was cut and why, answer."""
    retrieval = record.retrieval
    question = words.question.strip() if words else "(the words were erased)"
    profile = f"{record.profile.get('name', 'none')}/{record.profile.get('number', 0)}"
    corpus = f"corpus {record.corpus!r} version {record.corpus_version}"
    lines = [
        f"{record.kind} {record.id}  {record.at}  {record.status}",
        f"question   {question}",
        f"asked by   {', '.join(record.asker)}   filter {retrieval.filter or 'none'}",
        f"made by    {corpus}, release {record.release[:16]}, profile {profile}",
        *(f"           {name} {value}" for name, value in sorted(record.made_by.items())),
        f"trace      {record.trace_id}",
        *(f"error      {name}: {value}" for name, value in (record.error or {}).items()),
        "",
        "stages (ms)",
        *_stages(record.stage_ms),
        "",
        "terms      " + _terms(retrieval),
        *(
            f"leg        {leg.name}: {leg.path}, {leg.matching} rows could match, {leg.returned} of {leg.depth} taken"
            + (f", {leg.shortfall} missing" if leg.shortfall else "")
            for leg in retrieval.legs
        ),
        f"fusion     {_fusion(retrieval)}",
        "",
        *_candidates(retrieval, words),
    ]
    if record.answer is not None:
        lines += ["", "answer", *(f"  {line}" for line in _answer(record.answer)), *_considered(record.answer, words)]
    for degraded in record.degraded:
        lines.append(f"degraded   {degraded.code} at {degraded.stage}: {degraded.detail}")
    tokens = ", ".join(f"{name} {count}" for name, count in record.tokens.items())
    lines += ["", f"tokens     {tokens}", f"cost       {usd(record.cost_microusd)} USD"]
    return "\n".join(lines)


def _answer(answer: AnswerRecord) -> list[str]:
    if answer.abstained:
        return [
            f"A  {ABSTAINED}",
            f"   ({answer.reason}: confidence {answer.confidence:.3f}, an answer needs {answer.threshold:.3f})",
        ]
    lines = []
    for number, sentence in enumerate(answer.sentences, 1):
        lead = "A  " if number == 1 else "   "
        lines.append(f"{lead}{plain(sentence.text)} [{number}]")
    lines.append("")
    for number, sentence in enumerate(answer.sentences, 1):
        for citation in sentence.citations:
            place = f"{citation.document_id}, characters {citation.start}–{citation.end}"
            lines.append(f"   [{number}] “{_short(citation.quote, TEXT_CHARS)}”")
            lines.append(f"       {place}, version {citation.source_version[:12]}, support {sentence.support:.2f}")
    lines.append(f"   confidence {answer.confidence:.3f} (an answer needs {answer.threshold:.3f})")
    return lines


def _hit(record: RetrievalRecord, hit: HitRecord) -> list[str]:
    reasons = why(record, hit)
    legs = reasons["legs"]
    place = " > ".join([hit.title, *[name for name in hit.heading_path if name != hit.title]])
    score = record.candidates.score[hit.candidate]
    lines = [
        f"  {hit.rank}. {hit.document_id}  ({_short(place, 90)})",
        f"     score {score:.3f} = "
        + " + ".join(f"{name} {leg['contribution']:.3f}" for name, leg in legs.items())
        + f"  ({record.fusion.method})",
        "     "
        + "; ".join(
            f"{name}: {'rank ' + str(leg['rank']) if leg['rank'] else 'not in its list'}, score {leg['score']:.3f}"
            for name, leg in legs.items()
        )
        + (f"; words: {_matched(hit.terms)}" if hit.terms else ""),
    ]
    duplicates = reasons["selected"]["duplicates"]
    if duplicates:
        lines.append(f"     stands for {len(duplicates)} more with the same text")
    return lines


def _matched(terms: dict[str, float]) -> str:
    best = sorted(terms.items(), key=lambda item: -item[1])[:TERMS_SHOWN]
    return ", ".join(f"{term} {value:.2f}" for term, value in best)


def _footer(record: Evidence) -> list[str]:
    times = " ".join(f"{name} {record.stage_ms[name]:.0f}" for name in STAGES if name in record.stage_ms)
    corpus = f"corpus {record.corpus!r} version {record.corpus_version}"
    lines = [
        f"{corpus} · release {record.release[:12]} · cost {usd(record.cost_microusd)} USD",
        f"ms: {times}",
        f"evidence {record.id}   (ragstone trace show {record.id})",
    ]
    lines += [f"degraded: {each.code} at {each.stage}: {each.detail}" for each in record.degraded]
    return lines


def _stages(stage_ms: dict[str, float]) -> Iterable[str]:
    longest = max((ms for name, ms in stage_ms.items() if name != "total"), default=1.0) or 1.0
    ordered = [name for name in STAGES if name in stage_ms] + [name for name in stage_ms if name not in STAGES]
    for name in ordered:
        bar = "" if name == "total" else "▇" * max(1, round(30 * stage_ms[name] / longest))
        yield f"  {name:10}{stage_ms[name]:9.2f}  {bar}"


def _terms(record: RetrievalRecord) -> str:
    return ", ".join(f"{term}×{count} (idf {idf:.2f})" for term, count, idf in record.terms) or "none"


def _fusion(record: RetrievalRecord) -> str:
    fusion = record.fusion
    parts = (
        f"{leg}: weight {fusion.weights[leg]:g}, mean {fusion.mean[leg]:.3f}, deviation {fusion.deviation[leg]:.3f}"
        for leg in fusion.weights
    )
    return f"{fusion.method} over {fusion.n} candidates; " + "; ".join(parts)


def _candidates(record: RetrievalRecord, words: EvidenceText | None) -> Iterable[str]:
    columns = record.candidates
    documents = {hit.candidate: hit.document_id for hit in record.hits}
    yield f"candidates: {len(columns.seq)} fused, {len(record.hits)} returned (first {CANDIDATES_SHOWN})"
    yield f"  {'#':>3} {'score':>7} {'bm25':>8} {'rank':>4} {'dense':>7} {'rank':>4}  fate"
    for at in range(min(CANDIDATES_SHOWN, len(columns.seq))):
        fate = columns.fate[at]
        if fate == "duplicate":
            fate = f"duplicate of #{columns.duplicate_of[at] + 1}"
        yield (
            f"  {at + 1:>3} {columns.score[at]:7.3f} {columns.bm25[at]:8.3f} {columns.bm25_rank[at] or '–':>4}"
            f" {columns.dense[at]:7.3f} {columns.dense_rank[at] or '–':>4}  {fate}"
            f" {documents.get(at, columns.chunk_id[at][:12])}"
        )
        if words and at in documents and (text := words.context.get(columns.chunk_id[at])):
            yield f"      {_short(text, 100)}"
    cut = len(columns.seq) - len(record.hits)
    if cut:
        duplicates = columns.fate.count("duplicate")
        yield f"  cut: {columns.fate.count('beyond_page')} beyond the page, {duplicates} with the text of a better one"


def _considered(answer: AnswerRecord, words: EvidenceText | None) -> Iterable[str]:
    table = answer.considered
    count = len(table.get("score", []))
    units = len(set(table.get("unit", [])))
    yield f"  sentences considered: {units}; " + ", ".join(f"{k} {v:.3f}" for k, v in answer.features.items())
    order = sorted(range(count), key=lambda at: -table["score"][at])[:8]
    for at in order:
        text = words.context.get(table["chunk_id"][at], "") if words else ""
        quote = _short(text[table["start"][at] : table["end"][at]], 90)
        yield f"  {table['score'][at]:6.3f} cosine {table['cosine'][at]:.3f} {table['fate'][at]:13} {quote}"


def _short(text: str, chars: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= chars else flat[: chars - 1] + "…"
