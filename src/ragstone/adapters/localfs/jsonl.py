"""A JSONL file as a source: one record a line, `{"_id", "title", "text", "metadata", "acl", "media_type"}`.

Read line by line; of a record only its place in the file is kept, never its text.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, get_args

from ragstone.adapters.localfs.folder import changed, missing, scan_order, unreadable_place
from ragstone.core.ids import content_version
from ragstone.ingest.records import Fault, MediaType, Scan, SourceObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ragstone.ingest.parse import ParseLimits

_BOM = b"\xef\xbb\xbf"
_MEDIA_TYPES: tuple[str, ...] = get_args(MediaType)
_STEP = "correct the line, then ingest again"


@dataclass(frozen=True, slots=True)
class _Record:
    """A record that was understood."""

    key: str
    text: str
    title: str | None
    metadata: Mapping[str, Any]
    acl: tuple[str, ...] | None
    media_type: MediaType

    @property
    def version(self) -> str:
        """Changes exactly when text, title, metadata, access list or type do; not with line or layout."""
        content = [self.title, self.text, dict(self.metadata), self.acl, self.media_type]
        return content_version(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


class _BadRecordError(Exception):
    """Why a line is no record; `key` is its id where that could be read."""

    def __init__(self, reason: str, said: str, *, key: str | None = None, field: str = "") -> None:
        super().__init__(said)
        self.reason = reason
        self.key = key
        self.field = field


@dataclass(slots=True)
class _Listing:
    order: str
    objects: list[SourceObject] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class JsonlSource:
    """SourceReader over the records of one file."""

    def __init__(self, path: Path, limits: ParseLimits) -> None:
        self._path = Path(os.path.abspath(path))  # noqa: PTH100 - links in the given path keep their names
        self._limits = limits
        self._places: dict[str, tuple[int, int, int]] = {}

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._path.stem

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._path)

    async def scan(self, order: str | None = None) -> Scan:
        """Every record, and every line that is none, with the reason."""
        listing = await asyncio.to_thread(self._scan, order)
        self._places = listing.places
        objects = sorted(listing.objects, key=lambda found: found.key)
        return Scan(tuple(objects), tuple(listing.faults), listing.order)

    async def read(self, listed: SourceObject) -> bytes:
        """The text of the record that was listed, or DocumentRejected `changed_during_run`."""
        return await asyncio.to_thread(self._read, listed)

    def _scan(self, order: str | None = None) -> _Listing:
        listing = _Listing(order or scan_order())
        try:
            with self._path.open("rb") as file:
                for number, offset, raw in _lines(file, self._limits.bytes_max):
                    self._take(listing, number, offset, raw)
        except FileNotFoundError:
            raise missing(self._path) from None
        except OSError as fault:
            raise unreadable_place(self._path, fault) from None
        return listing

    def _take(self, listing: _Listing, number: int, offset: int, raw: bytes | None) -> None:
        place = f"{self._path.name}:{number}"
        try:
            record = self._new_record(listing, raw)
        except _BadRecordError as bad:
            step = "split it into several records, then ingest again" if bad.reason == "too_large" else _STEP
            listing.faults.append(
                Fault(
                    bad.key or place,
                    content_version(raw) if raw is not None else "",
                    bad.reason,
                    f"{place} {bad}",
                    step,
                    bad.field,
                    identified=bad.key is not None,
                ),
            )
            return
        listing.places[record.key] = (offset, len(raw or b""), number)
        listing.objects.append(_listed(record, listing.order, place))

    def _new_record(self, listing: _Listing, raw: bytes | None) -> _Record:
        if raw is None:
            raise _BadRecordError("too_large", f"has more than {self._limits.bytes_max} bytes")
        record = _record(raw)
        first = listing.places.get(record.key)
        if first is not None:
            said = f"has the id {record.key!r} of line {first[2]}, which is kept"
            raise _BadRecordError("duplicate_id", said, key=record.key, field="_id")
        return record

    def _read(self, listed: SourceObject) -> bytes:
        place = self._places.get(listed.key)
        if place is None:
            place = self._scan().places.get(listed.key)
        if place is None:
            raise changed(listed)
        try:
            with self._path.open("rb") as file:
                file.seek(place[0])
                record = _record(file.read(place[1]))
        except (OSError, _BadRecordError):
            raise changed(listed) from None
        if record.key != listed.key or record.version != listed.object_version:
            raise changed(listed)
        return record.text.encode()


def _listed(record: _Record, order: str, place: str) -> SourceObject:
    return SourceObject(
        record.key,
        record.version,
        order,
        len(record.text.encode()),
        record.media_type,
        place,
        record.title,
        record.metadata,
        record.acl,
    )


def _lines(file: IO[bytes], bytes_max: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Number, offset and bytes of every line that is not blank; None for one that is too long."""
    offset = 0
    number = 0
    while raw := file.readline(bytes_max + 1):
        number += 1
        start, length = offset, len(raw)
        too_long = length > bytes_max and not raw.endswith(b"\n")
        while too_long and not raw.endswith(b"\n"):
            raw = file.readline(bytes_max)
            length += len(raw)
            if not raw:
                break
        offset += length
        if number == 1 and raw.startswith(_BOM) and not too_long:
            raw, start = raw[len(_BOM) :], start + len(_BOM)
        if too_long:
            yield number, start, None
        elif raw.strip():
            yield number, start, raw


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _record(raw: bytes) -> _Record:
    """The record in a line; raises _BadRecordError."""
    found = _object(raw)
    key = _key_of(found)
    title = found.get("title")
    if title is not None and not isinstance(title, str):
        raise _wrong(key, "title", "a string")
    title = title.strip() or None if title is not None else None
    text = found.get("text")
    if text is not None and not isinstance(text, str):
        raise _wrong(key, "text", "a string")
    if not (text or "").strip() and not title:
        raise _BadRecordError("missing_text", "has neither text nor title", key=key, field="text")
    media_type = found.get("media_type", "text/plain")
    if media_type not in _MEDIA_TYPES:
        raise _wrong(key, "media_type", f"one of {', '.join(_MEDIA_TYPES)}")
    # A record with only a title is a document that says its title.
    body = text if text is not None and text.strip() else title
    assert body is not None
    record = _Record(key, body, title, _metadata(found, key), _acl(found, key), media_type)
    _refuse_unstorable(record)
    return record


def _object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        said = f"is not valid UTF-8: byte {fault.start} of the line is 0x{raw[fault.start]:02x}"
        raise _BadRecordError("invalid_utf8", said) from None
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _BadRecordError("broken_json", "is no JSON that can be read: it is nested too deeply") from None
    except ValueError as fault:
        raise _BadRecordError("broken_json", f"is no JSON: {fault}") from None
    if not isinstance(found, dict):
        raise _BadRecordError("wrong_type", "is JSON but no object with `_id` and `text`")
    return found


def _key_of(found: Mapping[str, Any]) -> str:
    key = found.get("_id")
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if key is None or key == "":
        raise _BadRecordError("missing_id", "has no `_id`", field="_id")
    if not isinstance(key, str):
        raise _BadRecordError("wrong_type", "has an `_id` that is neither a string nor an integer", field="_id")
    if not key.strip() or not _storable(key):
        raise _BadRecordError("wrong_type", "has an `_id` that is blank or no storable text", field="_id")
    return key


def _wrong(key: str, name: str, wanted: str) -> _BadRecordError:
    return _BadRecordError("wrong_type", f"({key}): `{name}` must be {wanted}", key=key, field=name)


def _metadata(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    metadata = found.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise _wrong(key, "metadata", "an object")
    for name, value in metadata.items():
        if not all(_scalar(item) for item in (value if isinstance(value, list) else [value])):
            raise _wrong(key, f"metadata.{name}", "a string, number, boolean or a list of these")
    return {name: value for name, value in metadata.items() if value is not None}


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _acl(found: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """The principals, sorted, so that their order is no change; an empty list means nobody."""
    acl = found.get("acl")
    if acl is None:
        return None
    if not isinstance(acl, list) or not all(isinstance(name, str) and name.strip() for name in acl):
        raise _wrong(key, "acl", "a list of strings such as `user:ann` or `group:hr`")
    return tuple(sorted({name.strip() for name in acl}))


def _storable(value: Any) -> bool:
    """Whether text can be stored: JSON can escape NUL and half a surrogate pair, UTF-8 and SQL cannot."""
    if isinstance(value, list):
        return all(map(_storable, value))
    return not isinstance(value, str) or not ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value))


def _refuse_unstorable(record: _Record) -> None:
    for name, value in record.metadata.items():
        if not (_storable(name) and _storable(value)):
            raise _wrong(record.key, f"metadata.{name!a}", "text without NUL and without half characters")
    for name, value in (("title", record.title), ("acl", list(record.acl or ()))):
        if not _storable(value):
            raise _wrong(record.key, name, "text without NUL and without half characters")
    # NUL in the text is the parser's business; half a character has no bytes.
    try:
        record.text.encode()
    except UnicodeEncodeError as fault:
        said = f"({record.key}): `text` has half a character at {fault.start}"
        raise _BadRecordError("invalid_utf8", said, key=record.key, field="text") from None
