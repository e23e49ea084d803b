"""Pairs for the eye: the preflight as a table, and one example in which every token shows whether it carries loss."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.basics.terminal import printable
from distill.curation.contamination import Overlap
from distill.curation.marked_tokens import MARK, MarkedTokens
from distill.curation.preflight import Preflight
from distill.pairs.labels import IGNORE, ids_and_labels

WIDTH = 100
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def check_rich() -> None:
    """Raise `ValueError` if the `rich` package is missing."""
    try:
        import rich  # noqa: F401
    except ImportError:
        raise ValueError("Inspecting pairs needs the 'rich' package: pip install 'distill[inspect]'.") from None


def show(
    parts: Sequence[Any], *, svg: str | Path | None = None, title: str = "distill inspect", width: int = WIDTH
) -> None:
    """Print renderables, and save them as a terminal picture.

    Colours are left out where the output is no terminal, or where `NO_COLOR` is set; the picture has them always.

    Args:
        parts: from `preflight_table` and its siblings.
        svg: file to write, or None.
        title: of the picture's window.
        width: of the picture, in columns.

    Raises:
        ValueError: the `rich` package is missing.
    """
    check_rich()
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(*parts, sep="\n")
    if svg is not None:
        picture = Console(
            file=StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", no_color=False,
            highlight=False,
        )  # fmt: skip
        picture.print(*parts, sep="\n")
        drawn = picture.export_svg(title=title)
        # rich names a web font; a picture in a document should ask nobody for anything
        Path(svg).write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


def preflight_table(report: Preflight, name: str) -> Any:
    """The figures of a preflight, two columns of names and values."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(name), style="bold"),
        title_justify="left",
        box=None,
        show_header=False,
        padding=(0, 2, 0, 0),
    )
    table.caption, table.caption_justify = "Tokens: least · median · 99% · most.", "left"
    for style in ("dim", "bold", "dim", "bold"):
        table.add_column(style=style, no_wrap=style == "dim")
    rows = list(_figures(report.figures).items())
    half = -(-len(rows) // 2)
    for i in range(half):
        cells = (*rows[i], *(rows[half + i] if half + i < len(rows) else ("", "")))
        table.add_row(*(Text(printable(cell)) for cell in cells))  # a plain text would be read as markup
    return table


def findings_list(report: Preflight, overlaps: Sequence[Overlap] = ()) -> Any:
    """Every finding on its own lines, its level in front; then what evaluation sets and pairs have in common."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for finding in report.findings:
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(printable(finding.text)))
    for overlap in overlaps:
        level = "warning" if overlap.rows else "info"
        said = Text(printable(str(overlap)))
        for hit in overlap.hits[:2]:
            said.append(f"\n{printable(hit.id)}, {hit.part}, {hit.share:.0%} of question {hit.question}: ", style="dim")
            said.append(printable(hit.common), style="italic")
        table.add_row(Text(level, style=_STYLES[level]), said)
    if not table.row_count:
        table.add_row(Text("ok", style="green"), Text("Nothing to say against these pairs."))
    return table


def example(
    pair: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    *,
    width: int | None = None,
    most_tokens: int = 160,
) -> Any:
    """One pair, token by token, with the labels that the collator gives it (`distill.pairs.labels`): exactly what a training sees.

    Tokens are divided by `│`; those with loss are green and underlined by a row of `▔`. Control tokens are shown as they
    are written, a line's end as `⏎`, a token that is no whole character by its bytes, marks without their letter on a `◌`.

    Args:
        pair: see `distill.pairs`.
        tokenizer: of its ids.
        max_length: as in the training.
        width: columns; as many as there are where it is printed, without it.
        most_tokens: of a longer row, the inside of long stretches is left out, and their number said; where loss begins
            and ends is always shown.

    Raises:
        ValueError: the pair has no token to learn from.
    """
    from rich.text import Text

    ids, labels = (array.tolist() for array in ids_and_labels(pair, max_length))
    carries = [label != IGNORE for label in labels]
    cut = len(pair["prompt_ids"]) + len(pair["completion_ids"]) - len(ids)
    head = Text(f"\nPair {printable(pair['id'])}", style="bold")
    head.append(
        f", {len(ids)} tokens, {sum(carries)} with loss (green, {MARK * 3}); {pair['finish_reason']}"
        + (f"; {cut} tokens cut by max_length" if cut else ""),
        style="not bold",
    )
    return MarkedTokens(head, _pieces(ids, carries, tokenizer, set(tokenizer.all_special_ids), most_tokens), width)


def teachers_prompt(pair: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, most: int = 400) -> list[Any]:
    """What the teacher of a pair was shown in place of the prompt; nothing where it was shown the prompt.

    Args:
        pair: see `distill.pairs`.
        tokenizer: of its ids.
        most: characters of a longer text; its inside is left out, and how many those are is said.
    """
    from rich.text import Text

    ids = pair.get("teacher_prompt_ids")
    if ids is None:
        return []
    text = str(tokenizer.decode(ids)).replace("\n", "⏎")
    if (left := len(text) - most) > 0:
        text = f"{text[: most // 2]} … {left:,} more characters … {text[-(most // 2) :]}"
    said = Text("\nIn place of the prompt", style="bold")
    said.append(f", the teacher was shown {len(ids):,} tokens: {printable(text)}", style="not bold")
    return [said]


def _pieces(
    ids: Sequence[int], carries: Sequence[bool], tokenizer: PreTrainedTokenizerBase, special: set[int], most: int
) -> list[tuple[str, bool, str]]:
    """`(text, loss, style)` of every token; of a row that is too long, only the ends of its stretches of equal loss."""
    stretches: list[list[int]] = []
    for i, loss in enumerate(carries):
        if i and loss == carries[i - 1]:
            stretches[-1].append(i)
        else:
            stretches.append([i])
    room = max(8, most // len(stretches)) if len(ids) > most else len(ids)
    pieces = []
    for stretch in stretches:
        loss = carries[stretch[0]]
        plain = "green" if loss else "dim"
        left_out = len(stretch) - room
        for place, i in enumerate(stretch):
            if left_out > 1 and room // 2 <= place < room // 2 + left_out:
                if place == room // 2:
                    pieces.append(
                        (f" … {left_out:,} more tokens {'with' if loss else 'without'} loss … ", loss, "italic")
                    )
                continue
            style = ("bold " if loss else "") + "magenta" if ids[i] in special else plain
            pieces.append((_visible(ids[i], tokenizer), loss, style))
    return pieces


def _visible(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a token looks like by itself."""
    if token >= len(tokenizer):
        return f"<no token {token}>"
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if "\ufffd" in text or not text:
        return f"<{tokenizer.convert_ids_to_tokens(token)}>"
    spaces = text if text.strip(" ") else "·" * len(text)
    if unicodedata.combining(spaces[0]) or unicodedata.category(spaces[0]) in ("Mn", "Me", "Mc"):
        spaces = f"◌{spaces}"  # a mark by itself would sit on the line between this token and the last one
    return "".join({"\n": "⏎", "\t": "⇥", "\r": "␍"}.get(c, c if c.isprintable() else repr(c)[1:-1]) for c in spaces)


def _figures(f: Mapping[str, Any]) -> dict[str, str]:
    """The figures as words, in the order in which one asks for them."""
    samples, lengths, eos = f["samples"], f["lengths"], f["eos"]
    near, cut = f["duplicates"]["near"], f["over_max_length"]
    between = f"{samples['least']} to {samples['most']}" if samples["least"] < samples["most"] else str(samples["most"])
    figures = {
        "rows": f"{f['rows']:,}",
        "prompts, samples each": f"{f['prompts']:,}, {between}",
        "tokens": f"{f['tokens']:,}",
        "with loss": f"{f['supervised_tokens']:,} ({f['supervised_share']:.1%})",
        f"padding, {f['padding']['batch_size']} a batch": f"{f['padding']['share']:.1%}",
    }
    for part in ("prompt", "completion", "row"):
        size = lengths[part]
        figures[f"tokens a {part}"] = f"{size['least']} · {size['median']} · {size['p99']} · {size['most']}"
    figures |= {
        **(
            {"teacher's prompts: rows, tokens": f"{s['rows']:,}, {s['median']:,} · {s['most']:,}"}
            if (s := f.get("teacher_prompts"))
            else {}
        ),
        "ended, EOS with loss": f"{f['stopped']:,}, {eos['supervised']:,}",
        "cut by the teacher": f"{f['cut']:,}",
        f"over max_length {f['max_length'] or ''}".strip(): f"{cut['rows']:,} rows"
        if f["max_length"]
        else "no limit given",
        "the same draw twice": f"{f['duplicates']['draw']:,}",
        "near duplicate prompts": "not looked for" if near is None else f"{near['found']:,} of {near['prompts']:,}",
        "control tokens in text": f"prompts {f['control_tokens']['prompt']:,}, completions {f['control_tokens']['completion']:,}",
        "highest id, tokenizer": f"{f['vocabulary']['highest_id']:,}, {f['vocabulary']['tokenizer']:,}",
        "ids decode to the text": f"{f['decoded']['rows'] - f['decoded']['other_text']:,} of {f['decoded']['rows']:,}",
        "token ids from": ", ".join(f"{name} {count:,}" for name, count in f["token_source"].items()),
        "traces, cut traces": f"{f['traces']['closed']:,}, {f['traces']['cut']:,}",
    }
    return figures
