"""Text of others repaints no terminal: control characters are written out wherever people are shown it."""

import pytest
from conftest import build_tokenizer
from fake_server import FakeServer, with_status
from rich.console import Console

from distill import generate
from distill.basics import processes
from distill.basics.terminal import printable
from distill.curation.inspection import example, preflight_table
from distill.curation.preflight import preflight
from distill.running.folder import one_sentence
from distill.teachers import ServerTeacher

ESCAPE = "\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve\ttext\n日本語 🙂", "plain, naïve\ttext\n日本語 🙂"),
        (ESCAPE, "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\rb\x9bc\x7f\u202ed", "a\\rb\\x9bc\\x7f\\u202ed"),
        ("half \ud83d", "half \\ud83d"),
        ("", ""),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert printable(text) == shown


def test_everything_that_speaks_goes_through_it(capsys):
    processes.say(f"a name {ESCAPE}")
    processes.tell(f"a name {ESCAPE}")

    @one_sentence
    def main():
        raise ValueError(f"No model {ESCAPE}")

    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert (said.out + said.err).count("\\x1b[2J") == 3


def test_a_servers_error_reaches_no_terminal_raw(capsys):
    with FakeServer() as server:
        server.fault = lambda number, body: with_status(400, f"no {ESCAPE}")
        asked = ServerTeacher(server.url, tokenizer=build_tokenizer(), backoff=0.01)

        @one_sentence
        def main():
            generate(asked, ["so"], progress=False)

        with pytest.raises(SystemExit):
            main()
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[2J" in said


def test_markup_and_escapes_in_names_and_ids_are_text(capsys):
    from conftest import build_pairs

    pairs = build_pairs(3).map(lambda row: {"id": f"[/red]{ESCAPE}{row['id']}", "teacher": "[/bold] t"})
    tokenizer = build_tokenizer()
    console = Console(width=100, force_terminal=True, color_system=None)
    console.print(preflight_table(preflight(pairs, tokenizer), f"[/red] {ESCAPE}.jsonl"), example(pairs[0], tokenizer))
    said = capsys.readouterr().out
    assert "[/red]" in said
    assert "\x1b" not in said
