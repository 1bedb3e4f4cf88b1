"""`ragstone audit` on a real folder, through the command line and a real database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cli_world import HANDBOOK, World, interrupt, line_of, world

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def made() -> Iterator[World]:
    """The handbook, ingested into a state directory of its own."""
    with world() as one:
        one.run("ingest", one.write(HANDBOOK))
        yield one


def test_a_clean_corpus_says_so(made):
    """Everything is compared, in words and as JSON; exit 0, and nothing was changed."""
    said = made.run("audit")
    assert "Nothing differs." in said.out
    assert "check documents: 5/5" in said.err
    report = made.json("audit")
    assert report["clean"] is True
    assert report["differences"] == {"total": 0, "by_store": dict.fromkeys(report["compared"], 0), "items": []}
    assert report["compared"]["source"] == report["compared"]["catalog"] == len(HANDBOOK)
    assert all(report["compared"].values())
    assert report["merkle_root"] == made.json("versions", "list")["items"][0]["merkle_root"]
    assert report["repair"] is None
    assert made.run("audit", "--as-of", "1").code == 0
    assert made.json("versions", "list")["total"] == 1


def test_a_changed_source_is_told_and_ingested(made):
    """A changed and a new file are named, exit 3; --repair ingests them, exit 0."""
    made.write({"travel.md": "# Travel\n\nWalk.\n", "new.md": "# New\n\nFresh.\n"})
    said = made.run("audit", code=3)
    assert "source changed: docs:travel.md: " in said.out
    assert "source missing: docs:new.md: " in said.out
    assert "2 differences. Next: ragstone audit --repair" in said.out
    mended = made.run("audit", "--repair")
    assert "Repair: 2 documents made again, 2 rows written, 2 chunks embedded." in mended.out
    assert "Published as version 2." in mended.out
    assert "Nothing differs." in mended.out


def test_a_mass_deletion_is_not_repaired(made):
    """A repair keeps the guard: an emptied folder is left, with the reason and the next step, exit 3."""
    for name in HANDBOOK:
        (made.docs / name).unlink()
    mended = made.json("audit", "--repair", code=3)
    assert mended["differences"]["by_store"]["source"] == len(HANDBOOK)
    assert "--allow-delete" in mended["repair"]["left"][0]
    assert made.top("coffee machine") == "notes/coffee.txt"


def test_damage_is_mended_and_answers_are_as_before(made):
    """A text, a vector, a posting and a manifest are damaged in place; one repair mends them all."""
    before = made.json("search", "the coffee machine is cleaned")["hits"]
    with made.database() as db:
        db.execute("update text set body = body || 'x' where body like 'The coffee machine%'")
        db.execute("delete from vector where seq = (select min(seq) from vector)")
        db.execute("update posting set bytes = set_byte(bytes, 0, 200) where term = 'laptop'")
    key = next(made.home.glob("objects/manifests/*/*.json"))
    data = key.read_bytes()
    key.write_bytes(data.replace(b"security.md", b"sekurity.md"))
    report = made.json("audit", code=3)
    found = {(each["store"], each["kind"]) for each in report["differences"]["items"]}
    assert found == {("catalog", "changed"), ("vectors", "missing"), ("postings", "changed"), ("manifest", "damaged")}
    assert all(each["repairable"] for each in report["differences"]["items"])
    mended = made.json("audit", "--repair")
    assert mended["clean"]
    assert (mended["repair"]["documents"], mended["repair"]["embedded"]) == (2, 0)
    assert mended["repair"]["manifests"] == 1
    assert key.read_bytes() == data
    after = made.json("search", "the coffee machine is cleaned")["hits"]
    assert [(hit["document_id"], hit["text"], hit["score"]) for hit in after] == [
        (hit["document_id"], hit["text"], hit["score"]) for hit in before
    ]


def test_words_that_are_wrong(made):
    """A repair of an old version, an unknown version and an unknown corpus are errors of usage."""
    assert "leave --as-of out" in made.run("audit", "--repair", "--as-of", "1", code=2).err
    assert "there is no version" in made.run("audit", "--as-of", "9", code=2).err
    assert json.loads(made.run("audit", "--corpus", "none", "--json", code=2).out)["error"]["code"] == "not_found"


def test_a_hostile_name_moves_no_cursor(made):
    """What a document is called is shown without the characters that would rule a terminal."""
    made.write({"a\x1b[31mred.md": "# Red\n\nText.\n"})
    said = made.run("audit", code=3)
    assert "source missing: docs:a\N{REPLACEMENT CHARACTER}[31mred.md" in said.out


def test_ctrl_c_leaves_everything_as_it_was(made):
    """An audit reads: stopped in the middle it ends with 130, and nothing has changed."""
    process = made.spawn("audit")
    line_of(process, "check")
    assert interrupt(process).code in {0, 130}
    assert made.json("audit")["clean"]


def test_numbers_and_access_lists_come_back_as_they_went(made):
    """Metadata whose numbers a database spells its own way, other letters and access lists are no difference."""
    records = [
        {"_id": "n", "title": "Numbers", "text": "Some numbers.", "metadata": {
            "a": 1e22, "b": -0.0, "c": 12345678901234567890, "d": 1e-7, "e": 1.10, "f": [1e16, 2.5e17], "g": 3e300,
        }},
        {"_id": "ö/☕ 1", "title": "Ö", "text": "Straße, İstanbul, \u0301accent, 東京.", "metadata": {"ключ": "ß"}},
        {"_id": "secret", "title": "Secret", "text": "The band is nine.", "acl": ["group:hr", "user:ann"]},
    ]  # fmt: skip
    made.run("ingest", made.records(records))
    report = made.json("audit")
    assert report["clean"]
    assert report["compared"]["source"] == len(HANDBOOK) + 3
    with made.database() as db:
        db.execute("update acl set principals = '{public}' where 'group:hr' = any(principals)")
    report = made.json("audit", code=3)
    assert [each["name"] for each in report["differences"]["items"]] == ["records:secret"]
    assert made.json("audit", "--repair")["repair"]["restored"] == 1
    assert not [hit for hit in made.json("search", "the band is nine")["hits"] if hit["document_id"] == "secret"]


def test_one_connection_is_enough(made):
    """An audit and a repair end also where a process may hold one pooled connection."""
    with made.database() as db:
        db.execute(
            "update docversion set title = 'Other' where object_version = (select min(object_version) from docversion)"
        )
        db.execute("delete from posting where term = 'laptop'")
    assert made.run("audit", code=3, RAGSTONE_DATABASE_POOL_SIZE="1").out
    assert "Nothing differs." in made.run("audit", "--repair", RAGSTONE_DATABASE_POOL_SIZE="1").out
