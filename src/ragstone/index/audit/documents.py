"""A document as the catalog holds it against its manifest line and against itself: every id and digest anew. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ragstone.core.ids import document_id, make_id, text_hash
from ragstone.core.nouns import PUBLIC
from ragstone.core.texts import passage_input
from ragstone.core.tokens import analyze
from ragstone.index import merkle
from ragstone.index.audit.records import (
    Differences,
    HeldDocument,
    HeldVersion,
    Listing,
    PlacedRow,
    Recount,
    Redo,
    Remedy,
    RestoreDocument,
    StoredRow,
    Subject,
)
from ragstone.index.postings import LexicalRow
from ragstone.index.records import ChangedDocument
from ragstone.index.rows import canonical, placed_digest
from ragstone.index.vectors import vector_hash


@dataclass(frozen=True, slots=True)
class SoundRow:
    """A row whose text and ids are what they must be: its postings and its cached vector can be told from it."""

    seq: int
    name: str
    lexical: LexicalRow
    input_hash: bytes
    vector_hash: bytes


@dataclass(slots=True)
class Check:
    """One pass over the documents of a version. `live[seq]` counts how often a row is live; `placed` is set on the
    way, so that what is live and placed nowhere is left at the end; `held` is what the catalog holds, gathered where
    there are no `lines` of manifests to compare it with."""

    subject: Subject
    lines: Mapping[bytes, ChangedDocument] | None
    listings: Mapping[bytes, Listing]
    live: npt.NDArray[np.int64]
    out: Differences
    placed: npt.NDArray[np.bool_] = field(init=False)
    seen: set[bytes] = field(default_factory=set)
    held: dict[bytes, ChangedDocument] = field(default_factory=dict)
    joined_terms: int = 0
    title_terms: int = 0
    unhashed: int = 0

    def __post_init__(self) -> None:
        self.placed = np.zeros(len(self.live), dtype=np.bool_)

    def document(self, held: HeldDocument) -> list[SoundRow]:
        """Compare one document; its sound rows."""
        self.out.compared["catalog"] += 1
        line = self.lines.get(held.document_id) if self.lines is not None else None
        one = _Document(self, held, line)
        if held.document_id in self.seen:
            one.differs("extra", "the version holds it twice")
        if held.ends:
            one.differs("changed", "its membership ends at a version that does not exist")
        self.seen.add(held.document_id)
        if self.lines is not None and line is None:
            one.differs("extra", "no manifest lists it in this version")
        one.row_of_its_own()
        one.access()
        return one.version()

    def missing(self) -> None:
        """Documents that the manifests list and the catalog does not hold; rows that are live and placed nowhere."""
        for ident, line in (self.lines or {}).items():
            if ident not in self.seen:
                source = source_of(self.subject, ident, line.key)
                name = f"{source}:{line.key}" if source else line.key
                detail = "its manifests list it, the catalog does not hold it"
                self.out.add("catalog", "missing", name, detail, Redo(source, line.key) if source else None)
        for seq in np.flatnonzero((self.live > 0) & ~self.placed).tolist():
            self.out.add(
                "rows", "extra", f"row {seq}", "it is live and no document of the version places it", Recount()
            )


def line_of(held: HeldDocument) -> ChangedDocument:
    """The manifest line of a document that the catalog holds whole: its version and all rows are there."""
    assert held.version is not None
    rows = [(row, row.stored) for row in held.version.rows if row.stored is not None]
    return ChangedDocument(
        document_id=held.document_id,
        key=held.key,
        object_version=held.version.object_version,
        leaf=held.version.leaf,
        chunk_ids=tuple(stored.chunk_id for _, stored in rows),
        placed=placed_digest((stored.row_id, row.start, row.end, stored.vector_hash) for row, stored in rows),
    )


def source_of(subject: Subject, ident: bytes, key: str) -> str:
    """The name of the source that a document id was made from; "" when it is none of the corpus."""
    for source in subject.sources.values():
        if document_id(source.source_id, key) == ident:
            return source.name
    return ""


def access_id(principals: frozenset[str] | Sequence[str]) -> bytes:
    """The id of an access list: its principals, in no order."""
    return make_id("acl", *sorted(set(principals)))


def row_id(chunk_id: bytes, title: str, heading_path: Sequence[str], metadata: str) -> bytes:
    """The id of a row; `metadata` in its canonical spelling."""
    return make_id("row", chunk_id, title, canonical(list(heading_path)), metadata)


def lexical_row(seq: int, title: str, heading_path: Sequence[str], text: str) -> LexicalRow:
    """The terms that a row adds to the postings, as it was written (`index.rows.document_rows`)."""
    title_terms = Counter(analyze(title))
    return LexicalRow(seq, Counter(analyze(passage_input(title, heading_path, text))) | title_terms, title_terms)


def rows_of(subject: Subject, held: HeldDocument) -> Iterator[tuple[str, LexicalRow]]:
    """The rows of a document that have a text, with their names and what it says of their postings."""
    if held.version is None:
        return
    named = subject.sources.get(held.source_id or b"")
    for row in held.version.rows:
        if row.stored is not None and row.stored.text is not None:
            name = f"{named.name if named else held.document_id.hex()}:{held.key}#{row.ordinal}"
            yield name, lexical_row(row.seq, held.version.title, row.heading_path, row.stored.text)


class _Document:
    """The comparison of one document."""

    def __init__(self, check: Check, held: HeldDocument, line: ChangedDocument | None) -> None:
        self.check, self.held, self.line = check, held, line
        subject = check.subject
        # The manifest's key is the truth where there is one; the id then tells the source.
        self.key = line.key if line else held.key
        named = subject.sources.get(held.source_id or b"")
        self.source = source_of(subject, held.document_id, self.key) or (named.name if named else "")
        self.name = f"{self.source}:{self.key}" if self.source else self.key or held.document_id.hex()

    @property
    def redo(self) -> Remedy | None:
        """What makes the document again."""
        return Redo(self.source, self.key) if self.source and self.key else None

    def differs(self, kind: str, detail: str, remedy: Remedy | None = None) -> None:
        """A difference of the catalog."""
        self.check.out.add("catalog", kind, self.name, detail, remedy or self.redo)

    def row_of_its_own(self) -> None:
        """The document's own row: its id follows from its source and key."""
        held = self.held
        restore = RestoreDocument(held.document_id, self.source, self.key) if self.source else None
        if held.source_id is None:
            self.differs("missing", "its row in the catalog is missing", restore)
        elif document_id(held.source_id, held.key) != held.document_id:
            self.differs("changed", f"its source and key in the catalog ({held.key!r}) do not give its id", restore)

    def access(self) -> None:
        """The access list: its id follows from its principals, and the source says who they are."""
        held = self.held
        if held.source_id is None:
            return
        restore = RestoreDocument(held.document_id, self.source, self.key) if self.source else None
        if held.principals is None:
            self.differs("missing", "its access list is missing", restore)
        elif held.acl_id and access_id(held.principals) != held.acl_id:
            self.differs("changed", "the principals of its access list do not give the list's id", restore)
        else:
            listed = self.check.listings.get(held.source_id, Listing()).objects.get(held.key)
            version = held.version.object_version if held.version else ""
            if listed and listed.object_version == version and frozenset(listed.acl or (PUBLIC,)) != held.principals:
                self.differs("changed", "its access list is not the one that its source gives it", restore)

    def version(self) -> list[SoundRow]:
        """The document version: its line in the manifest, its leaf, its rows."""
        version = self.held.version
        if version is None:
            self.differs("missing", "its document version is missing")
            return []
        if version.document_id != self.held.document_id:
            self.differs("changed", "the version it points to belongs to another document")
            return []
        line = self.line
        if line and version.object_version != line.object_version:
            self.differs("changed", f"object version {version.object_version}, its manifest says {line.object_version}")
        if line and version.leaf != line.leaf:
            self.differs("changed", "its Merkle leaf is not the one in its manifest")
        if [row.ordinal for row in version.rows] != list(range(len(version.rows))):
            self.differs("changed", f"its {len(version.rows)} placements are not numbered from 0 without a gap")
        if self.check.lines is None:
            about = (self.held.document_id, self.key, version.object_version, version.leaf)
            self.check.held[self.held.document_id] = ChangedDocument(*about, (), b"")
        return _Rows(self, version).compared()


class _Rows:
    """The comparison of a document version's rows."""

    def __init__(self, document: _Document, version: HeldVersion) -> None:
        self.document, self.rows, self.whole = document, version.rows, version
        self.check = document.check
        self.out = document.check.out

    def compared(self) -> list[SoundRow]:
        """Every row against the row's own facts, then all together against the leaf and the manifest."""
        for row in self.rows:
            self._live(row)
        stored = [row.stored for row in self.rows]
        whole = [each for each in stored if each is not None]
        if len(whole) < len(stored):
            return []
        self._leaf(whole)
        hashes = self._vectors(whole)
        sound = self._texts(whole)
        each_row = zip(self.rows, whole, hashes, sound, strict=True)
        return [self._sound(row, one, hashed) for row, one, hashed, fine in each_row if fine]

    def _live(self, row: PlacedRow) -> None:
        name, redo = f"{self.document.name}#{row.ordinal}", self.document.redo
        self.out.compared["rows"] += 1
        held = 0 <= row.seq < len(self.check.live)
        times = int(self.check.live[row.seq]) if held else 0
        if times != 1:
            detail = f"row {row.seq} is not live just once, to the end" if times else f"row {row.seq} is not live"
            self.out.add("rows", "extra" if times else "missing", name, detail, redo)
        if held and self.check.placed[row.seq]:
            self.out.add("rows", "extra", name, f"row {row.seq} is placed twice", redo)
        if held:
            self.check.placed[row.seq] = True
        if row.stored is None:
            self.out.add("rows", "missing", name, f"row {row.seq} is placed and does not exist", redo)
        elif row.stored.text is None:
            self.out.add("rows", "missing", name, f"the text of row {row.seq} is missing", redo)

    def _leaf(self, stored: Sequence[StoredRow]) -> None:
        secret, ident = self.check.subject.secret, self.document.held.document_id
        leaf = merkle.leaf(secret, ident, self.whole.object_version, [each.row_id for each in stored])
        if leaf != self.whole.leaf:
            self.document.differs("changed", "its rows and object version do not give its Merkle leaf")

    def _vectors(self, stored: Sequence[StoredRow]) -> list[bytes]:
        """Compare vectors with the hashes of their rows, and all with the manifest; the hash that is to be believed
        of each. Where the two disagree the manifest decides, and where it cannot, the row's hash."""
        recorded = [each.vector_hash for each in stored]
        actual = [vector_hash(each.vector) if each.vector is not None else b"" for each in stored]
        self.check.unhashed += recorded.count(b"")
        self.out.compared["vectors"] += len(stored)
        line = self.document.line
        believed = [one or other for one, other in zip(recorded, actual, strict=True)]
        if line and line.placed:
            if self._placed(stored, recorded) == line.placed:
                believed = recorded
            elif self._placed(stored, actual) == line.placed:
                believed = actual
            else:
                self.document.differs("changed", "its rows with their spans and vectors are not those in its manifest")
        for row, each, one, said, hashed in zip(self.rows, stored, actual, recorded, believed, strict=True):
            name = f"{self.document.name}#{row.ordinal}"
            if each.vector is None:
                self.out.add("vectors", "missing", name, f"row {row.seq} has no vector", self.document.redo)
            elif hashed and one != hashed:
                detail = f"the vector of row {row.seq} does not have the recorded hash"
                self.out.add("vectors", "changed", name, detail, self.document.redo)
            if said != hashed and said:
                self.document.differs("changed", f"the vector hash kept with row {row.seq} is not its vector's")
        return believed

    def _placed(self, stored: Sequence[StoredRow], hashes: Sequence[bytes]) -> bytes:
        return placed_digest(
            (each.row_id, row.start, row.end, one)
            for row, each, one in zip(self.rows, stored, hashes, strict=True)
        )  # fmt: skip

    def _texts(self, stored: Sequence[StoredRow]) -> list[bool]:
        """Which rows have a text and ids that follow from it."""
        readable = [each.text is not None and text_hash(each.text) == each.text_hash for each in stored]
        for row, each, fine in zip(self.rows, stored, readable, strict=True):
            if not fine and each.text is not None:
                self.document.differs("changed", f"the text of row {row.seq} does not have the recorded hash")
        if not all(readable):
            return [False] * len(stored)
        for row, each in zip(self.rows, stored, strict=True):
            if row.end - row.start != len(each.text or ""):
                self.document.differs("changed", f"row {row.seq} is placed at {row.start} to {row.end}, not its length")
        return self._ids(stored)

    def _ids(self, stored: Sequence[StoredRow]) -> list[bool]:
        document, chunking = self.document, self.check.subject.recipe.chunking.id
        equals: Counter[str] = Counter()
        chunks = []
        for each in stored:
            text = each.text or ""
            chunks.append(make_id("chunk", document.source, document.key, chunking, text, str(equals[text])))
            equals[text] += 1
        wrong = [row.seq for row, each, chunk in zip(self.rows, stored, chunks, strict=True) if each.chunk_id != chunk]
        if wrong:
            detail = f"the chunk id of row {wrong[0]} does not follow from its text and document"
            document.differs("changed", detail + (f", nor those of {len(wrong) - 1} more" if len(wrong) > 1 else ""))
        metadata, title = canonical(self.whole.metadata), self.whole.title
        pairs = zip(self.rows, stored, strict=True)
        fine = [row_id(each.chunk_id, title, row.heading_path, metadata) == each.row_id for row, each in pairs]
        if not all(fine):
            at = fine.index(False)
            rest = f", nor those of {fine.count(False) - 1} more" if fine.count(False) > 1 else ""
            detail = f"title, headings and metadata do not give the id of row {self.rows[at].seq}{rest}"
            document.differs("changed", detail)
        return fine

    def _sound(self, row: PlacedRow, stored: StoredRow, hashed: bytes) -> SoundRow:
        """What follows from a row's text; the term counts kept beside it are compared on the way."""
        title, text = self.whole.title, stored.text or ""
        lexical = lexical_row(row.seq, title, row.heading_path, text)
        counts = (lexical.joined.total(), lexical.title.total())
        self.check.joined_terms += counts[0]
        self.check.title_terms += counts[1]
        if counts != (stored.joined_terms, stored.title_terms):
            kept = f"({stored.joined_terms}, {stored.title_terms})"
            self.document.differs("changed", f"the term counts {kept} of row {row.seq} are not {counts}")
        given = text_hash(passage_input(title, row.heading_path, text))
        return SoundRow(row.seq, f"{self.document.name}#{row.ordinal}", lexical, given, hashed)
