"""`replay --engine`: the legs again on the recorded version, for the recorded asker, with the recorded query."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from answering import parts
from contract_stacks import (
    TENANT,
    Ingest,
    Stack,
    document,
    document_ident,
    fresh,
    ident,
    questions,
    random_documents,
    soon,
)

from ragstone.adapters.postgres.engine import EngineLimits, PostgresEngine
from ragstone.adapters.postgres.publish import PostgresPublisher
from ragstone.core.errors import DeadlineExceeded, IntegrityError, NotFound
from ragstone.core.evidence import Evidence
from ragstone.core.filters import parse_filter
from ragstone.core.nouns import Asker
from ragstone.evaluate.engine_replay import EngineReplay, replay_on_engine
from ragstone.evaluate.replay import replay
from ragstone.flow import Question, ask, search
from ragstone.index.records import Retention
from ragstone.retrieve.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragstone.adapters.postgres.database import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROFILE = Profile(depth=20)


async def recorded(
    stack: Stack, corpus: str, text: str, *, asker: str | None = None, filters: str | None = None,
    profile: Profile = PROFILE, command: Any = search,
) -> Evidence:  # fmt: skip
    """Ask, and give the record as it is read back from its bytes."""
    question = Question(text, TENANT, corpus, Asker.of(asker), parse_filter(filters), None, soon())
    outcome = await command(parts(stack, profile, 0.0), question)
    return msgspec.json.decode(msgspec.json.encode(outcome.record), type=Evidence)


async def again(stack: Stack, record: Evidence, profile: Profile = PROFILE) -> EngineReplay:
    found = await replay_on_engine(record, stack.catalog, stack.engine, profile, soon())
    assert found is not None
    return found


@pytest.mark.parametrize("filters", [None, 'lang = "en" and year >= 2005'])
async def test_exact_legs_agree(stack, filters):
    """Every record comes out the same from exact legs, to the last bit, with filter and asker, after the corpus has
    been changed and documents have been removed."""
    corpus = fresh("engine")
    documents = [
        replace(one, acl=("user:ann",) if at % 3 else ("user:bob",))
        for at, one in enumerate(random_documents(seed=31, count=60))
    ]
    await Ingest(corpus, documents).into(stack)
    kept = [
        await recorded(stack, corpus, text, asker="user:ann", filters=filters, command=command)
        for text in questions(seed=32, count=5)
        for command in (ask, search)
    ]
    changed = [document(one.key, "oak words", version="2", order="2", acl=one.acl) for one in documents[:20]]
    await Ingest(corpus, changed, deleted=[one.key for one in documents[20:30]], order="2").into(stack)
    for record in kept:
        found = await again(stack, record)
        assert found.agrees
        assert (found.differences, found.hidden, found.access_changed, dict(found.changed)) == ((), (), False, {})
        assert (found.corpus_version, found.largest_dense_difference) == (1, 0.0)
        assert found.scored == len(record.retrieval.candidates.seq)
        assert (found.page.same, found.page.same_order, found.page.came, found.page.went) == (
            len(record.retrieval.hits), True, (), ()
        )  # fmt: skip
        for leg, was in zip(found.legs, record.retrieval.legs, strict=True):
            assert (leg.name, leg.comparable, leg.agrees, leg.overlap) == (was.name, True, True, 1.0)
            assert (leg.recorded, leg.same, leg.came, leg.went) == (was.returned, was.returned, (), ())
            assert (leg.matching_now, leg.largest_difference) == (was.matching, 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(memory) -> tuple[Stack, bytes]:
    """A record of a search with duplicates among its candidates, as bytes."""
    corpus = fresh("engine")
    await Ingest(corpus, random_documents(seed=31, count=60)).into(memory)
    record = await recorded(memory, corpus, "the same words quarry stone")
    assert "duplicate" in record.retrieval.candidates.fate
    assert (await again(memory, record)).agrees
    return memory, msgspec.json.encode(record)


def _columns(record: Evidence) -> Any:
    return record.retrieval.candidates


def _ranked(record: Evidence, leg: str, rank: int) -> int:
    return getattr(_columns(record), f"{leg}_rank").index(rank)


def _swap(record: Evidence, leg: str) -> None:
    ranks = getattr(_columns(record), f"{leg}_rank")
    first, second = _ranked(record, leg, 1), _ranked(record, leg, 4)
    ranks[first], ranks[second] = ranks[second], ranks[first]


def _drop(record: Evidence, leg: str) -> None:
    getattr(_columns(record), f"{leg}_rank")[_ranked(record, leg, 20)] = 0


def _set(column: str, change: Callable[[Any], Any]) -> Callable[[Evidence], None]:
    """Change a value of the best candidate that both legs listed."""

    def alter(record: Evidence) -> None:
        columns = _columns(record)
        ranks = enumerate(zip(columns.bm25_rank, columns.dense_rank, strict=True))
        at = next(at for at, both in ranks if all(both))
        getattr(columns, column)[at] = change(getattr(columns, column)[at])

    return alter


def _other_twin(record: Evidence) -> None:
    columns = _columns(record)
    columns.fate[-1], columns.duplicate_of[-1] = "duplicate", 0


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (_set("bm25", lambda value: value + 1e-12), {"].bm25", "leg bm25"}),
        (_set("dense", lambda value: value + 1e-5), {"].dense", "leg dense"}),
        (_set("chunk_id", lambda value: "0" * len(value)), {"].chunk_id"}),
        (_set("seq", lambda _: 999_999), {"candidates[", "leg dense", "leg bm25"}),
        (_other_twin, {"duplicate_of"}),
        (lambda record: record.retrieval.terms[0].__setitem__(2, 1.0), {"terms[0].idf"}),
        (lambda record: _swap(record, "bm25"), {"leg bm25"}),
        (lambda record: _swap(record, "dense"), {"leg dense"}),
        (lambda record: _drop(record, "bm25"), {"leg bm25"}),
        (lambda record: _drop(record, "dense"), {"leg dense"}),
    ],
)
async def test_what_was_altered_does_not_agree(one, alter, where):
    """A score, row, text, weight or rank that the engine does not give is seen, and named."""
    stack, body = one
    record = msgspec.json.decode(body, type=Evidence)
    alter(record)
    found = await again(stack, record)
    assert not found.agrees
    seen = " ".join(
        [each.where for each in found.differences] + [f"leg {leg.name}" for leg in found.legs if not leg.agrees]
    )
    for part in where:
        assert part in seen, (part, seen)


async def test_a_rounding_of_another_processor_agrees(one):
    """A cosine that is off by less than a millionth agrees on the engine, and is told; a replay from the record alone
    still sees it."""
    stack, body = one
    record = msgspec.json.decode(body, type=Evidence)
    _columns(record).dense[2] += 2e-7
    found = await again(stack, record)
    assert found.agrees
    assert found.largest_dense_difference == pytest.approx(2e-7, rel=1e-3)
    assert not replay(record).equal


def without_epoch(record: Evidence) -> Evidence:
    """As the first records were written."""
    return msgspec.structs.replace(record, epoch=None)


async def test_what_was_deleted_since_is_no_fault(stack):
    """A document that is hidden by now is told apart: its candidates are no longer visible, others moved up in their
    place, the rest is the same. Records of before say so too."""
    corpus = fresh("engine")
    await Ingest(corpus, random_documents(seed=31, count=40)).into(stack)
    record = await recorded(stack, corpus, "stone lamp river")
    hit = record.retrieval.hits[0]
    await stack.suppress(ident(corpus), document_ident(corpus, hit.document_id))
    for each in (record, without_epoch(record)):
        found = await again(stack, each)
        assert found.agrees
        assert hit.chunk_id in found.hidden
        assert found.access_changed is (None if each.epoch is None else True)
        assert found.scored == len(record.retrieval.candidates.seq) - len(found.hidden)
        dense = found.legs[1]
        assert dense.recorded < 20
        assert dense.same == dense.recorded
        assert len(dense.came) == 20 - dense.recorded
        assert hit.chunk_id in found.page.went
        assert replay(each).equal


@pytest.mark.parametrize(("before", "after"), [("group:hr", "public"), ("public", "group:hr")])
async def test_access_that_was_changed_since_is_no_fault(stack, before, after):
    """Rows that an asker may see by now, or may not any more, came and went for that, and nothing else did."""
    corpus = fresh("engine")
    documents = random_documents(seed=31, count=30)
    special = document("special", "stone lamp river", "stone lamp", acl=(before,))
    await Ingest(corpus, [*documents, special]).into(stack)
    record = await recorded(stack, corpus, "stone lamp river")
    moved = document("special", "stone lamp river", "stone lamp", acl=(after,), version="2", order="2")
    await Ingest(corpus, [moved], order="2").into(stack)
    found = await again(stack, record)
    assert found.agrees
    assert found.access_changed is True
    if after == "public":
        assert len(found.page.came) == 2
        assert (len(found.page.went), found.hidden) == (2, ())
    else:
        assert len(found.hidden) == 2
        assert set(found.hidden) == set(found.page.went)


async def test_a_fault_is_not_taken_for_access(stack):
    """With other access since, scores and order of what is still there must be the same all the same."""
    corpus = fresh("engine")
    await Ingest(corpus, random_documents(seed=31, count=40)).into(stack)
    record = await recorded(stack, corpus, "stone lamp river")
    await stack.suppress(ident(corpus), document_ident(corpus, record.retrieval.hits[0].document_id))
    _swap(record, "dense")
    assert [leg.agrees for leg in (await again(stack, record)).legs] == [True, False]


async def test_other_settings_are_named(stack):
    """What is set otherwise now is named, and the legs ran with what the record says."""
    corpus = fresh("engine")
    await Ingest(corpus, random_documents(seed=31, count=40)).into(stack)
    record = await recorded(stack, corpus, "stone lamp river")
    found = await again(stack, record, Profile(depth=7, fusion="rrf"))
    assert dict(found.changed) == {"profile.depth": (20, 7), "profile.fusion": ("z", "rrf")}
    assert found.agrees
    assert [leg.depth for leg in found.legs] == [20, 20]
    assert found.page.same_order


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def graph(postgres: Stack, database: Database) -> tuple[Stack, str]:
    """A corpus with an HNSW index, on a stack that walks it."""
    corpus = fresh("engine")
    stack = replace(
        postgres,
        publisher=PostgresPublisher(database, ann_rows_min=100),
        engine=PostgresEngine(database, EngineLimits(exact_rows_max=50)),
    )
    await Ingest(corpus, random_documents(seed=41, count=300)).into(stack)
    return stack, corpus


async def test_a_walk_is_compared_by_its_overlap(graph):
    """A leg that walked is held to nothing but its scores; how many rows came again is told, after writes too."""
    stack, corpus = graph
    record = await recorded(stack, corpus, "stone lamp river", profile=Profile(depth=40))
    assert record.retrieval.legs[1].path.startswith("hnsw(ef=")
    await Ingest(corpus, random_documents(seed=42, count=100), source="later").into(stack)
    found = await again(stack, record, Profile(depth=40))
    bm25, dense = found.legs
    assert (bm25.comparable, bm25.agrees, bm25.overlap) == (True, True, 1.0)
    assert (dense.comparable, dense.agrees) == (False, True)
    assert dense.same == dense.recorded - len(dense.went)
    assert len(dense.came) == len(dense.went)
    assert dense.overlap > 0.5
    assert (found.agrees, found.differences) == (True, ())
    _columns(record).dense[0] += 1e-3
    assert not (await again(stack, record, Profile(depth=40))).agrees


async def test_another_path_is_named(graph, postgres):
    """A leg that compared every row then and walks now, or the other way round, is not compared row by row."""
    stack, corpus = graph
    for then, now in ((postgres, stack), (stack, postgres)):
        record = await recorded(then, corpus, "iron bell")
        found = await again(now, record)
        was, path = record.retrieval.legs[1].path, found.legs[1].path_now
        assert {was.startswith("hnsw"), path.startswith("hnsw")} == {True, False}
        assert dict(found.changed) == {"legs.dense.path": (was, path)}
        assert (found.legs[1].comparable, found.agrees) == (False, True)


async def test_what_is_gone(stack):
    """A version that retention let go, one that never was and a corpus that is gone are NotFound with a next step; a
    corpus made anew by another recipe is told from the recorded one."""
    corpus = fresh("engine")
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    record = await recorded(stack, corpus, "oak")
    for order in ("2", "3"):
        await Ingest(corpus, [document("a", f"oak {order}", version=order, order=order)], order=order).into(stack)
    assert (await again(stack, record)).agrees
    await stack.history.collect(ident(corpus), Retention(1), force=True)
    for gone, said in (
        (record, "version 1 is no longer kept"),
        (msgspec.structs.replace(record, corpus_version=99), "there is no version '99'"),
        (msgspec.structs.replace(record, corpus="never"), "unknown corpus 'never'"),
        (msgspec.structs.replace(record, corpus_version=3, index_id="00" * 16), "made anew with another recipe"),
    ):
        with pytest.raises(NotFound, match=said) as refused:
            await again(stack, gone)
        assert refused.value.next_step
    assert replay(record).equal


@pytest.mark.parametrize("vector", ["", "no base64!", "AAAA", "AAAAAA=="])
async def test_a_query_that_cannot_be_read(one, vector):
    """A query vector that is damaged or of another length is an error, never a search with something else."""
    stack, body = one
    record = msgspec.json.decode(body, type=Evidence)
    record.retrieval.query_vector = vector
    with pytest.raises(IntegrityError, match="is not one of 64 numbers"):
        await again(stack, record)


async def test_a_failure_has_no_legs(stack):
    """The record of a question that failed has nothing to search again."""
    corpus = fresh("engine")
    await Ingest(corpus, [document("a", "oak one")]).into(stack)
    kept: list[Evidence] = []

    class Keeps:
        async def write(self, record: Evidence, words: Any, ledger: Any) -> None:
            kept.append(record)

    broken = replace(parts(stack, PROFILE, 0.0), evidence=Keeps())
    late = Question("oak", TENANT, corpus, Asker(), None, None, replace(soon(), at=0.0))
    with pytest.raises(DeadlineExceeded):
        await search(broken, late)
    assert kept[0].error
    assert replay(kept[0]).decided == ()
    assert replay(kept[0]).equal
    assert await replay_on_engine(kept[0], stack.catalog, stack.engine, PROFILE, soon()) is None


async def test_the_query_is_the_recorded_one(one):
    """Nothing is embedded or analysed again: another vector or other terms in the record give another list."""
    stack, body = one
    record = msgspec.json.decode(body, type=Evidence)
    other = np.arange(64, dtype="<f2").tobytes()
    record.retrieval.query_vector = base64.b64encode(other).decode()
    found = await again(stack, record)
    assert [leg.agrees for leg in found.legs] == [True, False]
    record = msgspec.json.decode(body, type=Evidence)
    record.retrieval.terms.pop()
    found = await again(stack, record)
    assert [leg.agrees for leg in found.legs] == [False, True]
