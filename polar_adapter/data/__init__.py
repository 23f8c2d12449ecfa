"""Questions in, supervision in and out: datasets as examples, prompts, and the published supervision format."""

from __future__ import annotations

from .loading import load_examples
from .prompts import DIRECT_ANSWER, DIRECT_CHOICE, PromptTemplate
from .published import read_published, write_published
from .sources import SOURCES, Source

__all__ = [
    "DIRECT_ANSWER",
    "DIRECT_CHOICE",
    "SOURCES",
    "PromptTemplate",
    "Source",
    "load_examples",
    "read_published",
    "write_published",
]
