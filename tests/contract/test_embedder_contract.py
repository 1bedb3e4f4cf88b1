"""The contract of the Embedder port, run by every embedder: the shipped double and both local models."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ragstone.adapters.localmodels.cache import ModelCache
from ragstone.adapters.localmodels.embedder import OnnxEmbedder
from ragstone.adapters.localmodels.fetch import fetch
from ragstone.adapters.localmodels.hashing import HashEmbedder
from ragstone.adapters.localmodels.registry import MODELS, find_model
from ragstone.core.compute import Compute
from ragstone.core.errors import RagstoneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragstone.core.ports import Embedder

TEXTS = [
    "A building stone is cut by hand.",
    "The invoice is due on the first day of the month, and late payment costs two percent of the sum.",
    "Photosynthesis",
    "def main(argv: list[str]) -> int: ...",
    "short one",
]
STRANGE = {
    "empty": "",
    "white space": " \n\t ",
    "emoji": "🪨🏗️👩‍🔬",
    "chinese": "机器学习与信息检索",
    "right to left": "مرحبا بالعالم",
    "combining": "Ame\u0301lie nai\u0308ve",
    "nul": "a\x00b",
    "lone surrogate": "a\ud800b",
    "one long word": "x" * 5000,
}


@pytest.fixture(scope="session")
def model_cache() -> ModelCache:
    named = os.environ.get("RAGSTONE_MODEL_CACHE")
    return ModelCache(Path(named) if named else Path.home() / ".cache" / "ragstone" / "models")


@pytest.fixture(scope="session", params=["hash", *(model.name for model in MODELS)])
def embedder(request: pytest.FixtureRequest, model_cache: ModelCache) -> Iterator[Embedder]:
    if request.param == "hash":
        yield HashEmbedder()
        return
    model = find_model(request.param)
    try:
        asyncio.run(fetch(model, model_cache, timeout_s=120))
    except RagstoneError as fault:
        pytest.skip(f"the embedder contract was not tested with {model.name}: {fault.what}")
    compute = Compute(2)
    yield OnnxEmbedder.load(model, model_cache, compute)
    compute.close()


async def test_vectors_are_unit_float32(embedder: Embedder) -> None:
    """Every vector is float32, of the promised length and of norm 1."""
    vectors = await embedder.embed_passages(TEXTS)
    question = await embedder.embed_query(TEXTS[0])
    assert vectors.shape == (len(TEXTS), embedder.spec.dimensions)
    assert question.shape == (embedder.spec.dimensions,)
    assert vectors.dtype == question.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(question) == pytest.approx(1, abs=1e-6)


async def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    """Embedding nothing is not an error and keeps the shape."""
    assert (await embedder.embed_passages([])).shape == (0, embedder.spec.dimensions)


async def test_a_text_keeps_its_vector_in_company(embedder: Embedder) -> None:
    """The same text alone and among others has the same vector, bit for bit."""
    together = await embedder.embed_passages(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = await embedder.embed_passages([text])
        assert alone[0].tobytes() == together[row].tobytes()


async def test_rows_are_in_the_order_of_the_texts(embedder: Embedder) -> None:
    """Row i belongs to text i, however the work was divided."""
    many = TEXTS * 6
    forward = await embedder.embed_passages(many)
    backward = await embedder.embed_passages(many[::-1])
    assert np.array_equal(forward, backward[::-1])
    assert len(np.unique(forward, axis=0)) == len(TEXTS)


async def test_long_texts_are_cut_not_refused(embedder: Embedder) -> None:
    """A text beyond tokens_max gives a vector, and what stands beyond the limit does not change it."""
    start = "limestone quarry " * embedder.spec.tokens_max
    one, other = await embedder.embed_passages([start + "alpha", start + "omega " * 50_000])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
async def test_strange_texts_have_vectors(embedder: Embedder, text: str) -> None:
    """Empty, odd and broken texts are embedded and counted like all others."""
    vectors = await embedder.embed_passages([text])
    question = await embedder.embed_query(text)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(question) == pytest.approx(1, abs=1e-6)
    assert embedder.count_tokens(text) >= 0


async def test_the_query_prefix_is_for_questions_only(embedder: Embedder) -> None:
    """A question is its prefix and its text; a passage is its text alone."""
    prefix, text = embedder.spec.query_prefix, TEXTS[0]
    question = await embedder.embed_query(text)
    plain, prefixed = await embedder.embed_passages([text, prefix + text])
    assert np.array_equal(question, prefixed)
    assert np.array_equal(question, plain) == (not prefix)


async def test_calls_at_once_do_not_disturb_each_other(embedder: Embedder) -> None:
    """Questions and passages embedded at the same time come out as if they were alone."""
    passages = await embedder.embed_passages(TEXTS)
    questions = [await embedder.embed_query(text) for text in TEXTS]
    calls = [embedder.embed_query(text) for text in TEXTS * 4]
    together = await asyncio.gather(embedder.embed_passages(TEXTS * 4), *calls)
    assert np.array_equal(together[0], np.tile(passages, (4, 1)))
    assert np.array_equal(np.stack(together[1:]), np.stack(questions * 4))


async def test_a_question_does_not_wait_for_a_corpus(embedder: Embedder) -> None:
    """A question that arrives while passages are embedded is answered before they are done."""
    corpus = asyncio.create_task(embedder.embed_passages(TEXTS * 40))
    await asyncio.sleep(0)
    await embedder.embed_query("who is first?")
    assert not corpus.done()
    await corpus


async def test_a_cancelled_call_stops_working(embedder: Embedder) -> None:
    """After a cancel the embedder is free at once and still right."""
    before = await embedder.embed_query(TEXTS[0])
    corpus = asyncio.create_task(embedder.embed_passages(TEXTS * 2000))
    await asyncio.sleep(0)
    corpus.cancel()
    with pytest.raises(asyncio.CancelledError):
        await corpus
    async with asyncio.timeout(5):
        assert np.array_equal(await embedder.embed_query(TEXTS[0]), before)


def test_tokens_are_counted_without_special_ones_and_without_limit(embedder: Embedder) -> None:
    """Counting sees the whole text: nothing for an empty one, more than tokens_max for a long one."""
    assert embedder.count_tokens("") == 0
    assert embedder.count_tokens("stone") == 1
    assert embedder.count_tokens("stone " * 3000) == 3000


def test_the_spec_is_an_identity(embedder: Embedder) -> None:
    """The embedding id is fixed, and a limit, a prefix and a digest are in it."""
    spec = embedder.spec
    assert len(spec.id) == 16
    assert spec.tokens_max > 0
    assert spec.digest
    assert spec.batch_invariant or spec.precision == "int8"
