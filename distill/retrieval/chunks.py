"""Chunks: pieces of a document that are found and shown by themselves, cut where its text pauses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from distill.retrieval.documents import Document
from distill.text.words import NO_SPACES

WORDS, OVERLAP = 120, 20
# What counts as a word: a run without blanks, at most 16 characters of it, so that a line of base64 is no single word; where a script
# is written without spaces, a character.
_WORD = re.compile(rf"[{NO_SPACES}]|[^\s{NO_SPACES}]{{1,16}}")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r"([=\-~^\"'`*+])\1{2,}[ \t]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)]|[|>])[ \t]|    |\t|[|]")
# Behind a sentence: its sign, closing quotes, then a blank and no small letter; or the full stops of scripts without blanks.
_SENTENCE = re.compile(r"(?:[.!?…]+[\"'”’)\]]*\s+(?=[^\sa-z0-9])|[。！？]+[」』”’）]*\s*)")
_SHORT = re.compile(
    r"(?:\b(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|Nr|No|Fig|Figs|Eq|Sec|vs|etc|al|e\.g|i\.e|z\.B|approx|Inc|Ltd|Jr|Sr))\.[\"')\]]*\s+$"
)
_LEVELS = {"=": 1, "-": 2, "~": 3, "^": 4}


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `document.text[start:end] == text`.

    Args:
        id: the document's id and the chunk's number in it.
        document: the document's id.
        text, source, date: of the piece, and of its document.
        title: of the document, and the headings above the piece, joined by ` > `.
        start, end: where it stands, in characters.
    """

    id: str
    document: str
    text: str
    source: str
    title: str
    date: str | None
    start: int
    end: int


@dataclass(frozen=True)
class _Unit:
    """A sentence, an item of a list, a line of code: what is cut only where it is too long by itself."""

    start: int
    end: int
    words: int
    paragraph: int
    heading: bool = False


@dataclass
class _Section:
    """A heading and what stands below it, up to the next one."""

    headings: tuple[str, ...]
    units: list[_Unit] = field(default_factory=list)

    @property
    def words(self) -> int:
        return sum(unit.words for unit in self.units)


def chunks_of(document: Document, words: int = WORDS, overlap: int = OVERLAP) -> list[Chunk]:
    """The pieces of a document in their order; together they hold all of its words.

    A piece ends at a heading, at the end of a paragraph where one comes after half of `words`, else at the end of a sentence; only
    a sentence longer than a piece is cut inside, between two words. The next one begins up to `overlap` words earlier, at a
    sentence, unless a heading stands there. Short sections stand together.

    Args:
        document: whose text it is.
        words: at most so many in a piece. A run of more than 16 characters counts as several words, a character of a script
            without spaces as one.
        overlap: words at most that stand in two pieces.

    Raises:
        ValueError: `words` below 8, or an `overlap` that is negative or more than half of them.

    Example:
        >>> document = Document("mill", "# Mill\\n\\nIt is 200 years old. It stands in Leiden.", "mill.md", "Mill")
        >>> [chunk.text for chunk in chunks_of(document, words=10, overlap=0)]
        ['# Mill\\n\\nIt is 200 years old.', 'It stands in Leiden.']
    """
    if words < 8 or not 0 <= overlap <= words // 2:
        raise ValueError(
            f"words is {words} and overlap {overlap}; a piece has at least 8 words, and at most half of them stand in the one before."
        )
    found: list[Chunk] = []
    for headings, units in _together(_sections(document.text, words), words):
        if headings[:1] == (document.title,):
            headings = headings[1:]
        title = " > ".join(part for part in (document.title, *headings) if part)
        for first, last in _pieces(units, words, overlap):
            start, end = units[first].start, units[last].end
            name, text = f"{document.id}#{len(found)}", document.text[start:end]
            found.append(Chunk(name, document.id, text, document.source, title, document.date, start, end))
    return found


def _together(sections: list[_Section], words: int) -> Iterator[tuple[tuple[str, ...], list[_Unit]]]:
    """Units that may share a piece, with the headings above all of them: a short section stands with its neighbour."""
    headings: tuple[str, ...] = ()
    units: list[_Unit] = []
    size = 0
    for section, below in pairwise([*sections, None]):
        assert section is not None, "only what is below the last one is none"
        if below and all(unit.heading for unit in section.units):  # a heading stands with what is below it
            below.units[:0] = section.units
            continue
        small = min(size, section.words) < words // 4 and size + section.words <= words
        if units and not small:
            yield headings, units
            units, size = [], 0
        headings = _common(headings, section.headings) if units else section.headings
        units, size = units + section.units, size + section.words
    if units:
        yield headings, units


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = [a for a, b in zip(one, other, strict=False) if a == b]
    return tuple(same) if same == list(one[: len(same)]) else ()


def _pieces(units: list[_Unit], words: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First and last unit of each piece."""
    first = 0
    while True:
        last, size, pause = first, units[first].words, None
        while last + 1 < len(units) and size + units[last + 1].words <= words:
            last += 1
            size += units[last].words
            if 2 * size >= words and last + 1 < len(units) and units[last + 1].paragraph != units[last].paragraph:
                pause = last
        if last + 1 == len(units):
            yield first, last
            return
        last = last if pause is None else pause
        while units[last].heading and last > first:  # a heading stands with what is below it
            last -= 1
        yield first, last
        again, repeated = last + 1, 0
        while again - 1 > first and repeated + units[again - 1].words <= overlap and not units[again].heading:
            again -= 1
            repeated += units[again].words
        # what is repeated leaves room for the next unit, or the same piece would come again
        while again <= last and repeated + units[last + 1].words > words:
            repeated -= units[again].words
            again += 1
        first = again


def _sections(text: str, words: int) -> list[_Section]:
    """The text as sections of units, in its order."""
    found = [_Section(())]
    path: list[tuple[int, str]] = []
    fence, paragraph = "", 0
    begun = 0  # where the paragraph that is being read began
    lines = list(_lines(text))
    for number, (start, end) in enumerate(lines):
        line = text[start:end]
        bare = line.strip()
        mark = _FENCE.match(line)
        if fence or mark or not bare:
            _add(found[-1], text, begun, start, paragraph, words)
            if bare:
                _add_long(found[-1], text, start, end, paragraph, words)
            elif not fence:
                paragraph += 1
            begun = end
            if mark and not fence:
                fence = mark[1]
            elif mark and mark[1].startswith(fence) and bare == mark[1]:
                fence = ""
                paragraph += 1
            continue
        heading = _HEADING.match(line)
        below = text[slice(*lines[number + 1])] if number + 1 < len(lines) else ""
        underlined = None if heading or begun < start else _UNDERLINE.match(below)
        if heading or (
            underlined and underlined[1] in _LEVELS and len(below.rstrip()) + 1 >= len(bare) and not _ITEM.match(line)
        ):
            _add(found[-1], text, begun, start, paragraph, words)
            level, words_of = (len(heading[1]), heading[2]) if heading else (_LEVELS[underlined[1]], bare)  # type: ignore[index]
            path = [(above, name) for above, name in path if above < level] + [(level, words_of)]
            found.append(_Section(tuple(name for _, name in path)))
            paragraph += 1
            if underlined:
                end = lines[number + 1][1]
                lines[number + 1] = (end, end)
            _add_long(found[-1], text, start, end, paragraph, words, heading=True)
            begun = end
        elif _ITEM.match(line):
            _add(found[-1], text, begun, start, paragraph, words)
            begun = start
    _add(found[-1], text, begun, len(text), paragraph, words)
    return [section for section in found if section.units]


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield start, end
        start = end


def _add(section: _Section, text: str, start: int, end: int, paragraph: int, words: int) -> None:
    """Add the sentences of a paragraph."""
    if start >= end or not text[start:end].strip():
        return
    for pause in sentence_ends(text, start, end):
        _add_long(section, text, start, pause, paragraph, words)
        start = pause
    _add_long(section, text, start, end, paragraph, words)


def sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where the sentences of a paragraph end, but for the last one; behind an initial or a short form none does."""
    for match in _SENTENCE.finditer(text, start, end):
        if match.end() < end and not _SHORT.search(text, max(start, match.start() - 10), match.end()):
            yield match.end()
            start = match.end()


def _add_long(
    section: _Section, text: str, start: int, end: int, paragraph: int, words: int, heading: bool = False
) -> None:
    """Add one unit without the blanks around it; several, where it is longer than a piece."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        return
    found = len(_WORD.findall(text, start, end))
    if found <= words:
        section.units.append(_Unit(start, end, found, paragraph, heading))
        return
    places = [match.span() for match in _WORD.finditer(text, start, end)]
    for i in range(0, len(places), words):
        some = places[i : i + words]
        section.units.append(_Unit(some[0][0], some[-1][1], len(some), paragraph, heading))
