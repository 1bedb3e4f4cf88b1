"""The analyser of the lexical leg: the same words on every engine, at ingest and in a question.

Unicode words in lower case, Snowball English stems (Porter 2), English stop words out; identifiers
(`order-7781`, `foo_bar.py`, `v1.2.3`) are kept whole as well as in their parts.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter
from functools import lru_cache

import Stemmer

WORD = re.compile(r"[^\W_]+")
# An identifier is two or more words joined without a space by one of . _ - / : @ and holding a digit or a
# joiner that prose does not use; "well-known" is prose, "foo_bar" and "RFC-9457" are not.
JOINED = re.compile(r"[^\W_]+(?:[._\-/:@][^\W_]+)+")
TERM_CHARS_MAX = 64

STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
    "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was",
    "will", "with",
})  # fmt: skip

_local = threading.local()


def _stem(word: str) -> str:
    stemmer = getattr(_local, "stemmer", None)
    if stemmer is None:
        # A Stemmer object is not safe to share between threads.
        stemmer = _local.stemmer = Stemmer.Stemmer("english")
    return str(stemmer.stemWord(word))


@lru_cache(maxsize=65_536)
def _term(word: str) -> str:
    return "" if word in STOP_WORDS else _stem(word)[:TERM_CHARS_MAX]


def _is_identifier(text: str) -> bool:
    return any(mark in text for mark in "_@/:.") or any(letter.isdigit() for letter in text)


def analyze(text: str) -> list[str]:
    """The terms of a text in order; identifiers add one whole term after their parts."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    terms = [term for word in WORD.findall(lowered) if (term := _term(word))]
    for joined in JOINED.findall(lowered):
        if _is_identifier(joined):
            terms.append(joined[:TERM_CHARS_MAX])  # noqa: PERF401 - the loop reads better
    return terms


def query_terms(text: str, limit: int = 64) -> tuple[tuple[str, int], ...]:
    """Distinct terms of a question with their counts, in order of appearance, at most `limit`."""
    return tuple(Counter(analyze(text)).items())[:limit]
