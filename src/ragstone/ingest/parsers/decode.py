"""Bytes to text, or the reason why not: UTF-8 (with or without BOM), UTF-16 and UTF-32 with BOM, and what an
HTML page declares. Newlines become LF; every span of a document counts in the text made here.
"""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath

from ragstone.core.errors import DocumentRejected

CONTROLS_MAX = 8
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1b")
_MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a ZIP or Office file",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip file",
    b"\x7fELF": "a program",
}
_WIDE = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_CHARSET = re.compile(rb"<meta[^<>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{2,20})", re.IGNORECASE)
# Browsers read latin-1 as windows-1252 and gb2312 as gb18030; only these names are honoured, never any codec.
_DECLARED = {
    "iso-8859-1": "cp1252", "latin1": "cp1252", "windows-1252": "cp1252", "iso-8859-2": "iso8859-2",
    "iso-8859-15": "iso8859-15", "windows-1250": "cp1250", "windows-1251": "cp1251", "koi8-r": "koi8-r",
    "shift_jis": "cp932", "shift-jis": "cp932", "euc-jp": "euc-jp", "euc-kr": "cp949", "gb2312": "gb18030",
    "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5",
}  # fmt: skip


def decode(data: bytes, place: str, *, html: bool = False) -> str:
    """The text of `data`; raises DocumentRejected with `binary` or `invalid_utf8`."""
    for mark, codec in _WIDE:
        if data.startswith(mark):
            return _normalised(_strict(data, codec, place), place)
    _refuse_binary(data, place)
    declared = _declared(data) if html else None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _strict(data, declared or "utf-8", place)
    return _normalised(text, place)


def _refuse_binary(data: bytes, place: str) -> None:
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if kind is None and controls <= CONTROLS_MAX:
        return
    seen = f"looks like {kind}" if kind else f"has {controls} control characters"
    raise DocumentRejected(
        f"{place} {seen} and cannot be read as text",
        reason="binary",
        next_step=_convert_step(place),
    )


def _convert_step(place: str) -> str:
    suffix = PurePosixPath(place).suffix or "no suffix"
    return f"convert it to Markdown, HTML or UTF-8 text (it is named as {suffix}), then ingest again"


def _declared(data: bytes) -> str | None:
    found = _CHARSET.search(data[:1024])
    return _DECLARED.get(found.group(1).decode("ascii").lower()) if found else None


def _strict(data: bytes, codec: str, place: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as fault:
        line, byte = data.count(b"\n", 0, fault.start) + 1, data[fault.start]
        raise DocumentRejected(
            f"{place} is not valid {codec.upper()}: byte {fault.start} (line {line}) is 0x{byte:02x}",
            reason="invalid_utf8",
            next_step=f"save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 {place!r}), then ingest again",
        ) from None


def _normalised(text: str, place: str) -> str:
    if text.count("\0") > CONTROLS_MAX:
        raise DocumentRejected(
            f"{place} is full of NUL characters and cannot be read as text",
            reason="binary",
            next_step=_convert_step(place),
        )
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # CommonMark's own replacement; PostgreSQL stores no NUL.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
