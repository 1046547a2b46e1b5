"""How similar texts are: by BM25, or by an embedding model."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from atp.errors import AtpError

MISSING = 'needs sentence-transformers: pip install "alignment-tipping[embeddings]", or leave it out for BM25'


def check_embedding(name: str) -> None:
    """Raise AtpError if the library of embedding models is not installed."""
    if find_spec("sentence_transformers") is None:
        raise AtpError(f"embedding: '{name}' {MISSING}")


def bm25(texts: tuple[str, ...], question: str) -> Sequence[float]:
    """Return the BM25 score of each text for a question; zeros if they share no word."""
    index, known = _bm25_index(texts)
    words = [word for word in _words(question) if word in known]
    scores: Sequence[float] = index.get_scores(words).tolist() if words else [0.0] * len(texts)
    return scores


@lru_cache(maxsize=64)
def _bm25_index(texts: tuple[str, ...]) -> tuple[Any, set[str]]:
    """Return an index of texts, and the words that it knows."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each index
    documents = [_words(text) for text in texts]
    known = {word for document in documents for word in document}
    index = bm25s.BM25(dtype="float64")
    if known:
        index.index(documents, show_progress=False)
    return index, known


def _words(text: str) -> list[str]:
    import bm25s

    (words,) = bm25s.tokenize(text, stopwords=None, return_ids=False, show_progress=False)
    return list(words)


def embedding_similarity(name: str, texts: tuple[str, ...], question: str) -> Sequence[float]:
    """Return the cosine of each text's embedding and the question's. Raises AtpError for a model that is absent."""
    embedded = _embedded(name, texts) @ _embedded(name, (question,))[0]
    cosines: Sequence[float] = embedded.tolist()
    return cosines


@lru_cache(maxsize=4096)
def _embedded(name: str, texts: tuple[str, ...]) -> Any:
    return _embedding_model(name).encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


@lru_cache(maxsize=1)
def _embedding_model(name: str) -> Any:
    check_embedding(name)
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise AtpError(f"embedding: cannot load '{name}': {str(error).splitlines()[0]}") from error
