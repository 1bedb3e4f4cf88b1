"""An answer as server-sent events: `meta`, then for each sentence `delta` and `sentence`, then `done`.

`meta`      {"id", "query", "corpus", "corpus_version", "release", "degraded"}
`delta`     {"text"}: the deltas joined are the answer
`sentence`  the sentence with its citations, as in the document
`done`      the whole document, equal to what the JSON answer would have been
`error`     a problem document

An error that is known before the first byte has its HTTP status. When the work takes long, the stream is
opened with a comment, so that nobody on the way gives up; an error after that is an `error` event, the last.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import StreamingResponse

from ragstone.core.errors import RagstoneError
from ragstone.entrypoints.api.problems import problem_document
from ragstone.entrypoints.documents import answer_document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from ragstone.flow import Outcome

EVENT_STREAM = "text/event-stream"
QUIET_S = 1.0
HEADERS = {"X-Accel-Buffering": "no"}
META = ("id", "query", "corpus", "corpus_version", "release", "degraded")
STILL_WORKING = b": still working\n\n"

logger = logging.getLogger("ragstone.api")


async def stream_response(work: Coroutine[Any, Any, Outcome], trace_id: str) -> StreamingResponse:
    """The events of `work`. What fails within a second fails as an ordinary response does."""
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=QUIET_S)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        return StreamingResponse(_late(task, trace_id), headers=HEADERS, media_type=EVENT_STREAM)
    outcome = task.result()
    headers = {**HEADERS, "X-Ragstone-Id": outcome.record.id}
    return StreamingResponse(_early(outcome), headers=headers, media_type=EVENT_STREAM)


async def _early(outcome: Outcome) -> AsyncIterator[bytes]:
    for piece in events(answer_document(outcome)):
        yield piece


async def _late(task: asyncio.Task[Outcome], trace_id: str) -> AsyncIterator[bytes]:
    """Comments until the work is done; when the reader goes away, so does the work."""
    try:
        while not task.done():
            yield STILL_WORKING
            await asyncio.wait({task}, timeout=QUIET_S)
        for piece in events(answer_document(task.result())):
            yield piece
    except Exception as error:
        if not isinstance(error, RagstoneError):
            logger.exception("a fault in the program; trace %s", trace_id)
        yield event("error", problem_document(error, trace_id))
    finally:
        task.cancel()


def events(document: dict[str, Any]) -> Iterator[bytes]:
    """The events that tell an answer document, in order."""
    yield event("meta", {name: document[name] for name in META})
    for number, sentence in enumerate(document["sentences"]):
        yield event("delta", {"text": f" {sentence['text']}" if number else sentence["text"]})
        yield event("sentence", sentence)
    yield event("done", document)


def event(name: str, data: Any) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
