"""Corpora for the speed benchmarks: Zipf words with planted questions, or a BEIR-shaped set; and a hash embedder."""

from __future__ import annotations

import itertools
import json
import random
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ragstone.evaluate.judgements import read_qrels, read_queries

DIMENSIONS = 384
WORD = re.compile(r"[A-Za-z0-9]+")
CONSONANTS, VOWELS, ENDINGS = "bcdfghjklmnprstvwz", "aeiou", ("", "n", "r", "s", "t")

Docs = list[dict[str, str]]


class HashingEmbedder:
    """Signed feature hashing, a few microseconds a question: what is timed is not the embedder."""

    dim = DIMENSIONS

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Unit vectors."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> np.ndarray:
        places = [self._place(word) for word in WORD.findall(text.lower())] or [(0, 1.0)]
        table = np.array(places)
        vector = np.bincount(table[:, 0].astype(np.int64), weights=table[:, 1], minlength=DIMENSIONS)
        return (vector / (np.sqrt(vector @ vector) or 1.0)).astype(np.float32)

    def _place(self, word: str) -> tuple[int, float]:
        known = self._known.get(word)
        if known is None:
            code = zlib.crc32(word.encode())
            known = self._known[word] = (code % DIMENSIONS, 1.0 if (code >> 16) & 1 else -1.0)
        return known


def corpus(
    documents: int, questions: int, seed: int = 0, vocabulary: int = 30_000, words: tuple[int, int] = (60, 260)
) -> tuple[Docs, dict[str, str], dict[str, dict[str, int]]]:
    """Documents of words by Zipf's law, a quarter of them from one of many topics; questions are words of one
    document and two that are not. Returns (documents, questions by id, judgements)."""
    draw = random.Random(seed)
    names = _words(draw, vocabulary)
    cumulative = list(itertools.accumulate(1.0 / (rank + 2.7) for rank in range(vocabulary)))
    topics = [draw.sample(range(200, vocabulary), 60) for _ in range(max(20, documents // 50))]
    docs: Docs = []
    for number in range(documents):
        topic = topics[draw.randrange(len(topics))]
        base = draw.choices(range(vocabulary), cum_weights=cumulative, k=draw.randint(*words))
        text = [names[topic[draw.randrange(60)]] if draw.random() < 0.25 else names[each] for each in base]
        docs.append({"id": f"d{number}", "title": " ".join(text[:5]), "text": " ".join(text)})
    asked, judged = {}, {}
    for number in range(questions):
        target = docs[draw.randrange(documents)]
        text = target["text"].split()
        chosen = draw.sample(text, min(len(text), draw.randint(5, 10)))
        asked[f"q{number}"] = " ".join([*chosen, *(names[draw.randrange(vocabulary)] for _ in range(2))])
        judged[f"q{number}"] = {target["id"]: 1}
    return docs, asked, judged


def _words(draw: random.Random, count: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = (draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(draw.randint(1, 4)))
        words["".join(syllables) + draw.choice(ENDINGS)] = None
    return list(words)


def read_set(folder: Path) -> tuple[Docs, dict[str, str], dict[str, dict[str, int]]]:
    """A BEIR-shaped set; a document's text begins with its title."""
    docs = []
    for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines():
        each = json.loads(line)
        title = each.get("title") or ""
        docs.append({"id": str(each["_id"]), "title": title, "text": f"{title} {each['text']}".strip() or "empty"})
    qrels = read_qrels(folder / "qrels.tsv")
    return docs, {q: text for q, text in read_queries(folder / "queries.jsonl").items() if q in qrels}, qrels
