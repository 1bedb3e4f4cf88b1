"""One row, one byte: every damage of a PostgreSQL store is found under its store and name, repaired, and nothing
beside it is made anew."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from audit_world import PAGES, World, answers, make_world, said

from ragstone.adapters.postgres.engine import PostgresEngine
from ragstone.core.errors import IntegrityError
from ragstone.index import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from ragstone.adapters.postgres.database import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

ONE = "corpus_id = %(corpus)s and document_id = %(document)s"
ITS_VERSION = "corpus_id = %(corpus)s and docversion_id = %(docversion)s"
FIRST_ROW = "corpus_id = %(corpus)s and index_id = %(index)s and seq = %(seq)s"
WORD = "corpus_id = %(corpus)s and index_id = %(index)s and term = 'vacat'"
HEAD = "corpus_id = %(corpus)s and v = 1"
LEAVE = "docs:leave.md"
LEAVE_ROWS = 2


def byte(column: str, at: str = "0") -> str:
    """SQL for a column with one bit turned in one byte."""
    return f"{column} = set_byte({column}, {at}, get_byte({column}, {at}) # 1)"


@dataclass(frozen=True)
class Damage:
    """Some SQL, the store and the name that must be told, how many documents must be made anew, and words that one of
    the reasons must have: where several checks find it, this one must be among them."""

    what: str
    sql: str
    store: str
    name: str = LEAVE
    documents: int = 1
    reason: str = ""


DAMAGES = [
    Damage("membership deleted", f"delete from membership where {ONE}", "catalog"),
    Damage(
        "membership points elsewhere",
        f"update membership set docversion_id = (select docversion_id from docversion where {ONE.replace('document)s', 'another)s')}) where {ONE}",
        "catalog",
    ),
    Damage("document key", f"update document set key = 'x.md' where {ONE}", "catalog", documents=0),
    Damage("document source", f"update document set {byte('source_id')} where {ONE}", "catalog", documents=0),
    Damage("document deleted", f"delete from document where {ONE}", "catalog", documents=0),
    Damage(
        "document of another list",
        "with made as (insert into acl values (%(corpus)s, %(eve)s, '{user:eve}'))"
        f" update document set acl_id = %(eve)s where {ONE}",
        "catalog",
        documents=0,
    ),
    Damage(
        "access list",
        "update acl set principals = '{user:eve}' where corpus_id = %(corpus)s",
        "catalog",
        documents=0,
        reason="do not give the list's id",
    ),
    Damage("access list deleted", "delete from acl where corpus_id = %(corpus)s", "catalog", documents=0),
    Damage("document version deleted", f"delete from docversion where {ITS_VERSION}", "catalog"),
    Damage("title", f"update docversion set title = title || '.' where {ITS_VERSION}", "catalog"),
    Damage("metadata", f"update docversion set metadata = metadata || '{{\"a\": 1}}' where {ITS_VERSION}", "catalog"),
    Damage(
        "object version", f"update docversion set object_version = object_version || '0' where {ITS_VERSION}", "catalog"
    ),
    Damage("leaf", f"update docversion set {byte('leaf')} where {ITS_VERSION}", "catalog"),
    Damage("span", f"update placement set span_end = span_end + 1 where {ITS_VERSION} and ordinal = 0", "catalog"),
    Damage(
        "span moved",
        f"update placement set span_start = span_start + 1, span_end = span_end + 1 where {ITS_VERSION} and ordinal = 0",
        "catalog",
        reason="not those in its manifest",
    ),
    Damage("ordinal", f"update placement set ordinal = 99 where {ITS_VERSION} and ordinal = 0", "catalog"),
    Damage(
        "heading",
        f"update placement set heading_path = '{{Sick leave}}' where {ITS_VERSION} and ordinal = 1",
        "catalog",
    ),
    Damage("placement deleted", f"delete from placement where {ITS_VERSION} and ordinal = 1", "catalog"),
    Damage("row deleted", f"delete from chunk where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage(
        "row's chunk id", f"update chunk set {byte('chunk_id')} where {FIRST_ROW}", "catalog", reason="the chunk id of"
    ),
    Damage(
        "row id",
        f"update chunk set {byte('row_id', '15')} where {FIRST_ROW}",
        "catalog",
        reason="do not give its Merkle leaf",
    ),
    Damage("row's text hash", f"update chunk set {byte('text_hash')} where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage("row's terms", f"update chunk set joined_terms = joined_terms + 1 where {FIRST_ROW}", "catalog"),
    Damage("row's title terms", f"update chunk set title_terms = title_terms + 1 where {FIRST_ROW}", "catalog"),
    Damage("row's vector hash", f"update chunk set {byte('vector_hash')} where {FIRST_ROW}", "catalog"),
    Damage(
        "text", "update text set body = body || '!' where corpus_id = %(corpus)s and text_hash = %(text)s", "catalog"
    ),
    Damage(
        "text deleted", "delete from text where corpus_id = %(corpus)s and text_hash = %(text)s", "rows", f"{LEAVE}#0"
    ),
    Damage("live deleted", f"delete from live where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage("live closed early", f"update live set v_to = 1 where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage("live ends", f"update live set v_to = 9 where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage("live begins late", f"update live set v_from = 9 where {FIRST_ROW}", "rows", f"{LEAVE}#0"),
    Damage("membership ends", f"update membership set v_to = 9 where {ONE}", "catalog"),
    Damage("live twice", "insert into live values (%(corpus)s, %(index)s, %(seq)s, 0, 5)", "rows", f"{LEAVE}#0"),
    Damage("live beside", "insert into live values (%(corpus)s, %(index)s, 77, 1)", "rows", "row 77", 0),
    Damage(
        "vector",
        f"update vector set embedding = subvector(embedding, 1, 63) || '[0.5]'::halfvec where {FIRST_ROW}",
        "vectors",
        f"{LEAVE}#0",
    ),
    Damage("vector deleted", f"delete from vector where {FIRST_ROW}", "vectors", f"{LEAVE}#0"),
    Damage("posting's row", f"update posting set {byte('bytes')} where {WORD}", "postings", documents=0),
    Damage("posting's count", f"update posting set {byte('bytes', '4 * n')} where {WORD}", "postings", documents=0),
    Damage(
        "posting's title count", f"update posting set {byte('bytes', '5 * n')} where {WORD}", "postings", documents=0
    ),
    Damage("posting's length", f"update posting set {byte('bytes', '6 * n')} where {WORD}", "postings", documents=0),
    Damage(
        "posting's title length", f"update posting set {byte('bytes', '7 * n')} where {WORD}", "postings", documents=0
    ),
    Damage("posting deleted", f"delete from posting where {WORD}", "postings", documents=0),
    Damage(
        "posting truncated",
        f"update posting set bytes = substr(bytes, 1, length(bytes) - 3) where {WORD}",
        "postings",
        documents=0,
    ),
    Damage("posting's rows", f"update posting set n = n + 1 where {WORD}", "postings", "term 'vacat'", documents=0),
    Damage("posting's term", f"update posting set term = 'vacau' where {WORD}", "postings", documents=0),
    Damage("segment deleted", "delete from segment where corpus_id = %(corpus)s", "postings", documents=0),
    Damage(
        "cached embedding",
        f"update embedding_cache set {byte('embedding', '5')} where corpus_id = %(corpus)s",
        "embedding_cache",
        documents=0,
    ),
    Damage("root", f"update version set {byte('merkle_root')} where {HEAD}", "catalog", "version 1", 0),
    Damage("buckets", f"update version set {byte('buckets', '4000')} where {HEAD}", "catalog", "version 1", 0),
    Damage(
        "statistics",
        f"update version set statistics = jsonb_set(statistics, '{{rows}}', '99') where {HEAD}",
        "catalog",
        "version 1",
        0,
    ),
    Damage(
        "norms",
        f"update version set statistics = jsonb_set(statistics, '{{norms,0}}', '1.5') where {HEAD}",
        "catalog",
        "version 1",
        0,
    ),
    Damage(
        "statistics unreadable",
        f'update version set statistics = \'{{"rows": "many"}}\' where {HEAD}',
        "catalog",
        "version 1",
        0,
    ),
    Damage(
        "manifest key leads away",
        f"update version set manifest_key = '../../..' where {HEAD}",
        "catalog",
        "version 1",
        0,
    ),
    Damage("kind", f"update version set kind = 'repair' where {HEAD}", "catalog", "version 1", 0),
    Damage("manifest digest", f"update version set {byte('manifest_digest')} where {HEAD}", "catalog", "version 1", 0),
    Damage(
        "manifest key", f"update version set manifest_key = manifest_key || 'x' where {HEAD}", "catalog", "version 1", 0
    ),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.what)
async def test_a_damaged_row_is_found_and_mended(tmp_path: Path, database: Database, damage: Damage):
    """Each damage is told with its store and name; the repair makes only its document anew, and all is as before."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    before = await answers(world)
    await world.sql(damage.sql, **await names(world))
    found = await world.audit()
    told = [(each.store, each.name) for each in found.findings]
    assert any(store == damage.store and name.startswith(damage.name) for store, name in told), said(found)
    assert any(damage.reason in each.detail for each in found.findings)
    done, after = await world.repair(found)
    assert after.clean, (done, said(after))
    assert not done.left
    assert done.documents == damage.documents
    assert done.rows == LEAVE_ROWS * damage.documents
    assert (done.postings > 0) is (damage.store == "postings" and damage.name == LEAVE)
    assert done.embedded == 0
    assert await answers(world) == before


SELF_EVIDENT = [
    each
    for each in DAMAGES
    if each.what in {"leaf", "row id", "row's chunk id", "title", "metadata", "heading", "span", "text", "vector"}
]


@pytest.mark.parametrize("damage", SELF_EVIDENT, ids=lambda damage: damage.what)
async def test_the_catalog_is_proven_against_itself_where_manifests_are_lost(tmp_path, database, damage):
    """Without its manifests a document is still told, and no checkpoint is sealed over it."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    await world.sql(damage.sql, **await names(world))
    (await world.manifests())[0].unlink()
    told = [(each.store, each.name) for each in (await world.audit()).findings]
    assert any(store == damage.store and name.startswith(damage.name) for store, name in told)
    with pytest.raises(IntegrityError):
        await world.checkpoint()
    _, after = await world.repair()
    assert after.clean, said(after)


async def test_a_version_whose_row_is_missing_is_told(tmp_path: Path, database: Database):
    """A gap in the versions is told by number; a checkpoint of the head proves from there on."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    for word in ("Walk", "Run"):
        world.write({"travel.md": f"# Travel\n\n{word}.\n"})
        await world.ingest()
    await world.sql("delete from version where corpus_id = %(corpus)s and v = 2")
    found = await world.audit()
    assert [(each.store, each.kind, each.name) for each in found.findings] == [("catalog", "missing", "version 2")]
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert done.checkpoint


async def test_damage_that_hides_damage_is_mended_too(tmp_path: Path, database: Database):
    """A span that only a manifest can prove is told once the lost manifest is there again: one repair mends both."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    world.write({"travel.md": "# Travel\n\nWalk.\n"})
    await world.ingest()
    await world.sql(next(each.sql for each in DAMAGES if each.what == "span moved"), **await names(world))
    (await world.manifests())[1].unlink()
    found = await world.audit()
    assert [(each.store, each.name) for each in found.findings] == [("manifest", "version 2")]
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.manifests, done.documents) == (1, 1)


async def test_statistics_that_were_sealed_wrong_are_counted_again(tmp_path: Path, database: Database):
    """Statistics that the manifest and the catalog agree on are held against the rows all the same."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    before = await answers(world)
    sealed = manifest.read((await world.manifests())[0].read_bytes())
    assert sealed.statistics
    wrong = replace(sealed.statistics, joined_terms=sealed.statistics.joined_terms + 1)
    data = manifest.encoded(replace(sealed, statistics=wrong))
    key, digest = manifest.address(world.ident, data)
    await world.ingesting.objects.put(key, data)
    await world.sql(
        "update version set manifest_key = %(key)s, manifest_digest = %(digest)s, statistics = %(wrong)s::jsonb"
        " where corpus_id = %(corpus)s",
        key=key, digest=digest, wrong=json.dumps(msgspec.to_builtins(wrong)),
    )  # fmt: skip
    found = await world.audit()
    assert [(each.store, each.name) for each in found.findings] == [("catalog", "version 1")]
    done, after = await world.repair(found)
    assert after.clean, said(after)
    assert (done.documents, done.embedded, done.versions) == (1, 0, [2])
    assert await answers(world) == before


async def test_a_service_that_runs_sees_mended_postings(tmp_path: Path, database: Database):
    """An engine that has read damaged postings scores as before the damage once they are mended, in the same version."""
    world = make_world("postgres", tmp_path, database)
    world.write(PAGES)
    await world.ingest()
    before = await answers(world)
    await world.sql(f"update posting set {byte('bytes', '4 * n')} where {WORD}")
    world.engine = PostgresEngine(database)
    assert await answers(world) != before
    done, after = await world.repair()
    assert (after.clean, after.version, done.postings) == (True, 1, 1)
    assert await answers(world) == before


async def names(world: World) -> dict[str, bytes | int]:
    """What the SQL of a damage speaks of: a document, its version, its first row and that row's text."""
    from ragstone.adapters.postgres.runs import acl_id

    row = await world.sql(
        "select m.docversion_id, p.seq, c.text_hash from membership m"
        " join placement p on p.corpus_id = m.corpus_id and p.docversion_id = m.docversion_id and p.ordinal = 0"
        " join chunk c on c.corpus_id = p.corpus_id and c.index_id = p.index_id and c.seq = p.seq"
        " where m.corpus_id = %(corpus)s and m.document_id = %(document)s",
        document=world.document("leave.md"),
    )
    docversion, seq, text = row[0]
    return {
        "document": world.document("leave.md"), "another": world.document("travel.md"), "docversion": docversion,
        "seq": seq, "text": text, "eve": acl_id(("user:eve",)),
    }  # fmt: skip
