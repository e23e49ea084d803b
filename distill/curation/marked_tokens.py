"""Marked tokens: tokens in lines as wide as the terminal, each with loss underlined where it really stands."""

from collections.abc import Iterator, Sequence
from typing import Any

MARK = "▔"  # under every token that carries loss: for those who see no colour, and for pipes


class MarkedTokens:
    """What `rich` prints as a head and lines of tokens, divided by `│`, with a line of marks under those that have any.

    Laid out when it is printed, in the cells of that terminal: a Chinese character takes two, a combining mark none. Lines that
    a terminal broke by itself would leave the marks behind.

    Args:
        head: a `rich` text above them.
        pieces: `(text, loss, style)` of each token; a text that ends with `⏎` ends its line.
        width: columns; by default those of the terminal.
    """

    def __init__(self, head: Any, pieces: Sequence[tuple[str, bool, str]], width: int | None = None) -> None:
        self.head, self.pieces, self.width = head, pieces, width

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield self.head
        yield from self.lines(self.width or options.max_width)

    def lines(self, width: int) -> Iterator[Any]:
        """Lines of tokens, and of marks under them; none is wider than `width` (at least 4)."""
        from rich.cells import cell_len, chop_cells
        from rich.text import Text

        def new() -> Any:
            return Text(no_wrap=True, overflow="ignore", end="\n")

        shown, marks, column = new(), new(), 0
        for piece, loss, style in self.pieces:
            # a token of a hundred dashes takes several lines
            for part in chop_cells(piece, max(width // 2, 2)) or [""]:
                cells = cell_len(part)
                if column and column + cells + 1 > width:
                    yield shown
                    if MARK in marks.plain:
                        yield marks
                    shown, marks, column = new(), new(), 0
                shown.append(part, style=style)
                marks.append((MARK if loss else " ") * cells, style="green")
                column += cells
            shown.append("│", style="dim")
            marks.append(" ")
            column += 1
            if piece.endswith("⏎"):
                yield shown
                if MARK in marks.plain:
                    yield marks
                shown, marks, column = new(), new(), 0
        if column:
            yield shown
            if MARK in marks.plain:
                yield marks
