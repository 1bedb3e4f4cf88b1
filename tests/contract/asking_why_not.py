"""Asking why a document is not in a result, on either backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contract_stacks import (
    EMBEDDER,
    Ingest,
    Stack,
    fresh,
    random_documents,
    soon,
)

from ragstone.adapters.memory.lost_documents import MemoryWhereabouts
from ragstone.adapters.postgres.lost_documents import PostgresWhereabouts
from ragstone.core.filters import parse_filter
from ragstone.observe.why_not_page import sentence, why_not_document, why_not_page
from ragstone.retrieve.profile import Profile
from ragstone.retrieve.stage import Ask, Clock, Retriever
from ragstone.retrieve.why_not import WhyNotParts, why_not

if TYPE_CHECKING:
    from ragstone.retrieve.records import WhyNot


def whereabouts(stack: Stack) -> Any:
    """The port on this backend."""
    if stack.name == "memory":
        return MemoryWhereabouts(stack.engine._state)
    return PostgresWhereabouts(stack.engine._database)


async def asked(
    stack: Stack, corpus: str, question: str, name: str, *, depth: int = 100, limit: int = 10, as_of: str | None = None,
    asker: str | None = None, filters: str | None = None, fusion: Any = "z", chunks: int = 100,
) -> WhyNot:  # fmt: skip
    view = await stack.view(corpus, as_of, asker)
    retriever = Retriever(stack.catalog, stack.engine, EMBEDDER, Profile(depth=depth, fusion=fusion))
    parts = WhyNotParts(stack.catalog, whereabouts(stack), stack.engine, retriever)
    found = await why_not(parts, view, Ask(question, parse_filter(filters), limit, 0, soon()), name, chunks)
    assert sentence(found) in why_not_page(question, found)
    assert why_not_document(found)["verdict"] == found.verdict
    return found


async def crowd(stack: Stack) -> str:
    """Sixty documents, so that short lists and pages lose some."""
    corpus = fresh("why")
    await Ingest(corpus, random_documents(seed=11, count=60)).into(stack)
    return corpus


async def everything(stack: Stack, corpus: str, question: str, depth: int, limit: int) -> Any:
    """What the retriever itself answers."""
    retriever = Retriever(stack.catalog, stack.engine, EMBEDDER, Profile(depth=depth))
    view = await stack.view(corpus)
    return view, await retriever.retrieve(view, Ask(question, None, limit, 0, soon()), Clock())
