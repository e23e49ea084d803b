"""Documents: what people have in a folder, and what of it cannot be read."""

import gzip
import json
import os

import pytest

from distill.retrieval import Document, Documents


def test_a_folder_of_what_people_have(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "a.md").write_bytes(
        b"---\ntitle: Mills\ndate: 2026-11-27\ntags: [wind]\n---\n# Mills\r\n\r\nOld ones.\r\n"
    )
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xef\xbb\xbfPlain words.")
    (tmp_path / "sub" / "u16.txt").write_bytes("Wörter.".encode("utf-16"))
    (tmp_path / "README").write_text("No suffix.")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Packed words."))
    rows = [
        {"id": 7, "text": "A row.", "url": "https://x.org/7", "date": "2026-01-02", "lang": "en"},
        {"text": "No id.", "metadata": {"source": "wiki", "title": "T"}},
        {"text": " "},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty.md").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Süß".encode("latin-1"))
    (tmp_path / "program.exe").write_bytes(b"MZ\x00\x01\xff")
    (tmp_path / "nul.txt").write_bytes(b"a\x00b")
    (tmp_path / "page.html").write_text("<p>Tags</p>")
    found = Documents.read(tmp_path)
    by_id = {document.id: document for document in found}
    assert set(by_id) == {"a.md", "sub/b.txt", "sub/u16.txt", "README", "c.txt.gz", "7", "rows.jsonl:2"}
    assert by_id["a.md"].text == "# Mills\n\nOld ones.\n"
    assert (by_id["a.md"].title, by_id["a.md"].date, by_id["a.md"].columns["tags"]) == ("Mills", "2026-11-27", ["wind"])
    assert by_id["sub/b.txt"].text == "Plain words."
    assert by_id["sub/u16.txt"].text == "Wörter."
    assert by_id["c.txt.gz"].text == "Packed words."
    assert (by_id["7"].source, by_id["7"].date, by_id["7"].columns["lang"]) == ("https://x.org/7", "2026-01-02", "en")
    assert (by_id["rows.jsonl:2"].source, by_id["rows.jsonl:2"].title) == ("wiki", "T")
    assert dict(found.aside) == {
        "rows.jsonl, row 3": "its text is empty",
        "empty.md": "it has no words",
        "latin.txt": "its byte 1 is no UTF-8; save it as UTF-8",
        "program.exe": "binary",
        "nul.txt": "binary",
        "page.html": ".html is not read",
    }
    said = capsys.readouterr().err
    assert all(name in said for name in ("put aside 6", "program.exe (binary)", "page.html"))
    fewer = Documents.read(tmp_path, exclude=["*.jsonl", "sub/*"], suffixes=["html"])
    assert {document.id for document in fewer} == {"a.md", "README", "c.txt.gz", "page.html"}
    assert len(Documents.read(tmp_path, file_dates=True)[0].date) == len("2026-11-27")


def test_identity_is_of_all_that_is_said():
    one = Document("a", "Words.", "a.md", columns={"x": [1, None]})
    assert one.identity == Document("a", "Words.", "a.md", columns={"x": [1, None]}).identity
    others = [{"text": "Other."}, {"source": "b.md"}, {"title": "T"}, {"date": "2026"}, {"columns": {"x": [2]}}]
    usual = {"id": "a", "text": "Words.", "source": "a.md", "columns": {"x": [1, None]}}
    assert len({one.identity, *(Document(**{**usual, **other}).identity for other in others)}) == 6
    two = Document("b", "More.", "b.md")
    assert Documents([one, two]).fingerprint == Documents([two, one]).fingerprint != Documents([one]).fingerprint


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / "b.txt").write_bytes(b"\x00\xff\x00")
    (tmp_path / "c.jsonl").write_text('{"words": "a"}\n')
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    (tmp_path / "e.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "f.jsonl").write_text('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n')
    for name, said in (
        ("none", "without documents; it is empty"),
        ("pictures", r"put aside 1: a\.png \(binary\)"),
        ("b.txt", r"b\.txt is no document: binary"),
        ("c.jsonl", r"c\.jsonl:1: no column text, .*; this row has words\. Name the one"),
        ("d.jsonl", r"d\.jsonl:2: The text of a document is 3"),
        ("e.jsonl", r"e\.jsonl:2: not a JSON object"),
        ("f.jsonl", "Two documents have the id 'x'"),
        ("missing", "No file and no folder"),
    ):
        with pytest.raises(ValueError, match=said):
            Documents.read(tmp_path / name)
    assert Documents.read(tmp_path / "c.jsonl", text="words")[0].text == "a"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"id": " "}, "has no id"),
        ({"text": "\n"}, "has no words"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "a\ud800"}, "no Unicode"),
        ({"date": 2026}, "The date of a document is 2026"),
    ],
)
def test_a_document_that_is_none(given, said):
    with pytest.raises(ValueError, match=said):
        Document(**{"id": "a", "text": "Words.", "source": "a.md", **given})


@pytest.mark.parametrize(
    ("given", "said"), [("docs", r"Documents\.read"), (["text"], "not a str"), ([], "at least one")]
)
def test_documents_that_are_none(given, said):
    with pytest.raises(ValueError, match=said):
        Documents(given)


def test_an_impossible_date_stays_as_it_is_written_and_the_mark_may_end_the_file(tmp_path, capsys):
    (tmp_path / "a.md").write_text("---\ntitle: Mills\ndate: 2024-02-30\n---\nOld ones.\n")
    (tmp_path / "b.md").write_text("---\ntitle: only a head\n---")
    (tmp_path / "c.md").write_text("---\ntitle: [\n---\nWords.\n")
    (tmp_path / "d.md").write_text("---\nnumber: !!int x\n---\nWords.\n")
    (tmp_path / "e.md").write_text("---\n\nA page between rulers.\n\n---\n")
    (tmp_path / "f.md").write_text("---\n---\nNothing said.\n")
    found = {one.id: one for one in Documents.read(tmp_path)}
    assert (found["a.md"].title, found["a.md"].date, found["a.md"].text) == ("Mills", "2024-02-30", "Old ones.\n")
    assert "b.md" not in found
    assert found["c.md"].text == "---\ntitle: [\n---\nWords.\n"
    assert found["e.md"].text.startswith("---\n\nA page")
    assert found["f.md"].text == "Nothing said.\n"
    said = capsys.readouterr().err
    assert "b.md (it has no words)" in said
    for name in ("c.md", "d.md"):
        assert f"{name}: what stands between --- before it is no YAML" in said


def test_links_that_are_not_followed_are_put_aside(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.md").write_text("Other words.")
    (tmp_path / "docs" / "a.md").write_text("Words.")
    (tmp_path / "docs" / "file.md").symlink_to(tmp_path / "other" / "b.md")
    (tmp_path / "docs" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs" / "gone.md").symlink_to(tmp_path / "nowhere.md")
    os.mkfifo(tmp_path / "docs" / "pipe.md")
    found = Documents.read(tmp_path / "docs")
    assert [one.id for one in found] == ["a.md", "file.md"]
    assert {name: why.split(";")[0] for name, why in found.aside} == {
        "gone.md": "a link to nothing",
        "linked": "a link to a folder, which is not followed",
        "loop": "a link to a folder, which is not followed",
        "pipe.md": "no file",
    }
    assert "put aside 4" in capsys.readouterr().err
    assert Documents.read(tmp_path / "docs", exclude=["linked", "loop", "*gone.md", "pipe*"]).aside == ()


def test_an_id_of_two_files_has_the_path_before_it(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "intro.md").write_text(f"---\nid: intro\n---\nHello {folder}.\n")
        (tmp_path / folder / "rows.jsonl").write_text(f'{{"id": 0, "text": "Row of {folder}."}}\n')
    (tmp_path / "c.md").write_text("---\nid: own\n---\nHello.\n")
    found = {one.id: one.text for one in Documents.read(tmp_path)}
    assert found == {
        "a/intro.md:intro": "Hello a.\n", "b/intro.md:intro": "Hello b.\n", "own": "Hello.\n",
        "a/rows.jsonl:0": "Row of a.", "b/rows.jsonl:0": "Row of b.",
    }  # fmt: skip
    assert capsys.readouterr().err.count("2 ids stand in several files and have the path before them") == 1
    # in one file an id that stands twice is a mistake
    (tmp_path / "a" / "rows.jsonl").write_text('{"id": 0, "text": "One."}\n{"id": 0, "text": "Two."}\n')
    with pytest.raises(ValueError, match="Two documents have the id"):
        Documents.read(tmp_path)


def test_each_row_has_the_words_in_a_column_of_its_own(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "A."}\n{"content": "B."}\n{"name": "c"}\n{"text": " ", "document": "d-7"}\n')
    found = Documents.read(path)
    assert [one.text for one in found] == ["A.", "B."]
    assert [why.split(",")[0] for _, why in found.aside] == ["no column text", "its text is empty"]
    assert Documents.read(path, text="text").aside[0] == ("a.jsonl, row 2", "no column text")


def test_a_text_is_no_list_of_patterns_and_a_pattern_that_names_nothing_is_told(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.md").write_text("Words.")
    for name in ("exclude", "suffixes"):
        with pytest.raises(ValueError, match=rf"{name} is the text '\*\.csv'; give a list"):
            Documents.read(tmp_path, **{name: "*.csv"})
    assert len(Documents.read(tmp_path, exclude=["old"])) == 1
    assert "the pattern 'old' leaves nothing out" in capsys.readouterr().err
