"""Retrieval: documents, their index on disk, answers with passages in the prompt; and training rows made of documents.

Tuning puts stable knowledge into the weights, retrieval puts into the prompt what changed yesterday.
"""

from distill.retrieval.answering import Answer, answer
from distill.retrieval.chunks import Chunk, chunks_of
from distill.retrieval.documents import Document, Documents
from distill.retrieval.encoder import Encoder
from distill.retrieval.index import Index
from distill.retrieval.passages import Passage, Retriever, bare, with_passages

__all__ = [
    "Answer",
    "Chunk",
    "Document",
    "Documents",
    "Encoder",
    "Index",
    "Passage",
    "Retriever",
    "answer",
    "bare",
    "chunks_of",
    "with_passages",
]
