import json
import math
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANDBOOK = ROOT / "examples" / "handbook"
GOLDEN_SET = ROOT / "evals" / "handbook"
ANSWERABLE = {"outside_top_chunk", "two_documents", "table", "list", "number", "name", "plain"}


@cache
def page(document):
    return (HANDBOOK / document).read_text(encoding="utf-8")


def questions(kind=None):
    lines = (GOLDEN_SET / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [q for q in map(json.loads, lines) if kind in (None, q["kind"])]


def all_spans(question):
    return question["spans"] + question.get("also", [])


def words(text):
    return [w.removesuffix("s") for w in re.findall(r"[a-z0-9]+", text.lower())]


def sections(text):
    starts = [0, *(m.start() for m in re.finditer(r"^#{1,6}\s", text, re.MULTILINE)), len(text)]
    return [(a, b) for a, b in pairwise(starts) if a < b]


def bm25_best_section(query, text, k1=1.2, b=0.75):
    parts = sections(text)
    counts = [Counter(words(text[start:end])) for start, end in parts]
    mean = sum(c.total() for c in counts) / len(counts)

    def score(count):
        total = 0.0
        for word in set(words(query)):
            df = sum(word in c for c in counts)
            norm = count[word] + k1 * (1 - b + b * count.total() / mean)
            total += math.log(1 + (len(counts) - df + 0.5) / (df + 0.5)) * count[word] * (k1 + 1) / norm
        return total

    return parts[max(range(len(parts)), key=lambda i: score(counts[i]))]


def test_the_handbook_is_whole():
    """The example corpus is the 152 pages of June 2020, but for one link: 1,002,740 bytes."""
    files = [p for p in HANDBOOK.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".md"}
    assert (len(files), sum(len(p.read_bytes()) for p in files)) == (152, 1_002_740)


def test_every_quote_stands_at_its_offsets():
    """A span points at exactly the text that it quotes, with nothing blank at either end."""
    for question in questions():
        for span in all_spans(question):
            assert span.keys() == {"document", "start", "end", "quote"}, question["_id"]
            assert page(span["document"])[span["start"] : span["end"]] == span["quote"], question["_id"]
            assert span["quote"], question["_id"]
            assert span["quote"] == span["quote"].strip(), question["_id"]


def test_a_question_has_the_fields_that_the_readme_names():
    """Ids are unique, no question is asked twice, and no field or kind is unknown."""
    golden = questions()
    for question in golden:
        assert question.keys() - {"also", "note"} == {"_id", "text", "kind", "split", "spans"}, question["_id"]
        assert question["kind"] in ANSWERABLE | {"unanswerable"}, question["_id"]
        assert question["split"] in {"tune", "test"}, question["_id"]
        assert re.fullmatch(r"hb-\d{3}", question["_id"])
    assert len({q["_id"] for q in golden}) == len({q["text"].lower() for q in golden}) == len(golden)


def test_each_kind_has_enough_questions():
    """There are 60 to 80 questions, at least 7 of each answerable kind and 15 without an answer."""
    counts = Counter(q["kind"] for q in questions())
    assert 60 <= counts.total() <= 80
    assert counts.keys() == ANSWERABLE | {"unanswerable"}
    assert min(counts[kind] for kind in ANSWERABLE) >= 7
    assert counts["unanswerable"] >= 15


def test_the_readme_counts_the_questions():
    """The table of kinds in the README gives the true counts."""
    readme = (ROOT / "evals" / "README.md").read_text(encoding="utf-8")
    counts = {kind: int(n) for kind, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", readme, re.MULTILINE)}
    assert counts == Counter(q["kind"] for q in questions())


def test_the_splits_are_balanced_in_every_kind():
    """In every kind the tune and the test split differ by at most one question."""
    counts = Counter((q["kind"], q["split"]) for q in questions())
    for kind in ANSWERABLE | {"unanswerable"}:
        assert abs(counts[kind, "tune"] - counts[kind, "test"]) <= 1, kind


def test_spans_fit_the_kind():
    """An unanswerable question has no span, a list has several, and two documents are two."""
    for question in questions():
        documents = {s["document"] for s in question["spans"]}
        if question["kind"] == "unanswerable":
            assert not all_spans(question), question["_id"]
        elif question["kind"] == "two_documents":
            assert len(documents) == 2, question["_id"]
        else:
            assert len(documents) == 1, question["_id"]
            assert (len(question["spans"]) > 1) == (question["kind"] == "list"), question["_id"]


def test_table_answers_stand_in_tables():
    """The span of a table question lies in a row of a Markdown table or in a cell of an HTML one."""
    for question in questions("table"):
        (span,) = question["spans"]
        text = page(span["document"])
        in_html = text.rfind("<td", 0, span["start"]) > text.rfind("</td>", 0, span["start"])
        assert "|" in span["quote"] or in_html, question["_id"]


def test_the_most_similar_part_does_not_answer():
    """For outside_top_chunk, the section of the page that BM25 puts first does not hold the span."""
    for question in questions("outside_top_chunk"):
        (span,) = question["spans"]
        start, end = bm25_best_section(question["text"], page(span["document"]))
        assert not start <= span["start"] < end, question["_id"]


def test_queries_and_qrels_are_up_to_date():
    """What build.py would write is what stands in the folder."""
    command = [sys.executable, ROOT / "evals" / "build.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_qrels_judge_exactly_the_answerable_questions():
    """Each answerable question has a judgement, each judged document is a page, and no other has one."""
    header, *rows = (GOLDEN_SET / "qrels.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    judged = [row.split("\t") for row in rows]
    assert {q for q, _, _ in judged} == {q["_id"] for q in questions() if q["kind"] != "unanswerable"}
    assert all((HANDBOOK / document).is_file() and score == "1" for _, document, score in judged)


def test_demo_questions_are_two_with_an_answer_and_one_without():
    """The questions of the example are golden ones: two answerable, then one to abstain from."""
    kinds = {q["text"]: q["kind"] for q in questions()}
    asked = (ROOT / "examples" / "questions.txt").read_text(encoding="utf-8").splitlines()
    assert [kinds[text] for text in asked] == ["number", "list", "unanswerable"]
