"""Several processes generate into one journal: together what one would have drawn, each pair once, through kills too."""

import json

import pytest
from fake_server import FakeServer
from generation_runs import PROMPTS, SETTINGS, refused, shared, teacher_at, trainer_with_teacher
from processes import run_processes

from distill import generate
from distill.generation.journal import Journal
from distill.generation.journal_settings import settings_there
from distill.generation.kept import kept_in


@pytest.fixture(scope="module")
def server():
    with FakeServer() as running:
        yield running


def alone(url, **changes):
    return generate(teacher_at(url), PROMPTS, **{**SETTINGS, **changes})


def lines(path):
    found = path.read_bytes().splitlines()
    assert len({json.loads(line)["id"] for line in found}) == len(found)
    return set(found)


@pytest.mark.parametrize("kind", ["local", "server"])
def test_processes_share_the_work_and_end_with_the_journal_of_one(server, tmp_path, kind):
    url = server.url if kind == "server" else None
    wanted = alone(url, output=tmp_path / "one.jsonl").to_list()
    before = len(server.asked)
    assert run_processes(3, shared, url, str(tmp_path / "three.jsonl")) == [wanted] * 3
    assert lines(tmp_path / "three.jsonl") == lines(tmp_path / "one.jsonl")
    assert len(server.asked) - before == (30 if url else 0), "each asked for its own share"
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("three")}
    assert left == {f"three.jsonl{ending}" for ending in ("", ".lock", ".settings.json")}, "no part is left"
    more = [*PROMPTS, "one more"]
    assert len(run_processes(2, shared, url, str(tmp_path / "three.jsonl"), more)[1]) == 32, "it goes on, and with two"
    assert len(server.asked) - before == (32 if url else 0)


def test_without_an_output_all_have_the_pairs_of_all():
    assert run_processes(2, shared, None, None) == [alone(None).to_list()] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_killed_run_left_in_parts_is_taken_in(server, tmp_path, processes):
    """With more processes than now; a part ends in a torn line."""
    path, asked = tmp_path / "pairs.jsonl", teacher_at(server.url)
    rows = alone(server.url).to_list()
    settings = {**asked.identity(), **_sampling()}
    for place, some in enumerate((rows[:5], rows[5:9], rows[9:12])):
        with Journal(tmp_path / f"pairs.jsonl.part-{place}", settings) as part:
            part.append(some)
    with (tmp_path / "pairs.jsonl.part-2").open("ab") as file:
        file.write(b'{"id": "to')
    before = len(server.asked)
    if processes == 1:
        found = [alone(server.url, output=path).to_list()]
    else:
        found = run_processes(2, shared, server.url, str(path))
    assert found == [rows] * processes
    assert len(server.asked) - before == 30 - 12
    assert len(lines(path)) == 30
    assert not list(tmp_path.glob("*.part-*"))


def _sampling():
    from distill.teachers import Sampling

    return Sampling(max_new_tokens=SETTINGS["max_new_tokens"]).as_dict()


@pytest.mark.parametrize("name", ["link", "pairs[1].jsonl"])
def test_an_output_that_is_a_link_or_has_brackets_in_its_name(tmp_path, name):
    """Parts lay beside the link, and were looked for beside the file; brackets were read as a pattern."""
    (tmp_path / "data").mkdir()
    path, real = tmp_path / name, tmp_path / "data" / "real.jsonl"
    if name == "link":
        path.symlink_to(real)
    for _ in range(2):
        assert [len(rows) for rows in run_processes(2, shared, None, str(path))] == [30, 30]
        assert len(lines(path)) == 30
    assert not list(tmp_path.rglob("*.part-*"))


def test_parts_of_another_run_are_refused(tmp_path):
    with Journal(tmp_path / "pairs.jsonl.part-0", {"teacher": "another"}):
        pass
    (tmp_path / "pairs.jsonl.part-0").write_bytes(b'{"id": "x", "row_crc32": "00000000"}\n')
    with (
        pytest.raises(ValueError, match="part-0 holds pairs of another run"),
        kept_in(tmp_path / "pairs.jsonl", {"teacher": "t"}, {}, False),
    ):
        pass


def test_refusals_of_all_are_told_by_all_and_recorded_once(server, tmp_path):
    path = tmp_path / "pairs.jsonl"
    server.change = lambda body, payload: payload["choices"][0].update(
        finish_reason="done" if "colour 3" in str(body) or "colour 4" in str(body) else "stop"
    )
    try:
        said = run_processes(2, refused, server.url, str(path), PROMPTS)
    finally:
        server.change = None
    assert said[0] == said[1]
    assert "4 of 30 completions could not be had" in said[0]
    recorded = [json.loads(line) for line in (tmp_path / "pairs.jsonl.refused.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in recorded}) == len(recorded) == 4
    before = len(server.asked)
    with pytest.raises(ValueError, match="4 of 30"):
        alone(server.url, output=path)
    assert len(server.asked) == before, "and by one process, too, they are not asked for again"


def test_a_black_box_with_a_teacher_generates_once(server):
    before = len(server.asked)
    first, second = run_processes(2, trainer_with_teacher, server.url)
    assert first == second
    assert len(server.asked) - before == len(first) == 30


def test_settings_of_a_journal_can_be_looked_up(tmp_path):
    assert settings_there(tmp_path / "p.jsonl") == {}
    with Journal(tmp_path / "p.jsonl", {"teacher": "t"}, incidental={"teacher_url": ["a"]}):
        pass
    assert settings_there(tmp_path / "p.jsonl") == {"teacher": "t"}
