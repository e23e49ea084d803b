"""Retrieval: documents, their index on disk, answers with passages in the prompt; and training rows made of documents.

Tuning puts stable knowledge into the weights, retrieval puts into the prompt what changed yesterday.
"""

from distill.retrieval.chunks import Chunk, chunks_of
from distill.retrieval.documents import Document, Documents
from distill.retrieval.passages import Passage, Retriever, bare, with_passages

__all__ = ["Chunk", "Document", "Documents", "Passage", "Retriever", "bare", "chunks_of", "with_passages"]
