"""One teacher at several addresses: work goes to whoever is free, and one that dies costs time only."""

import json
import threading
import time
from functools import partial

import pytest
import server_runs
from conftest import free_port, wait_until
from fake_server import FakeServer, drop, with_status
from server_runs import TOKENIZER, run

from distill.teachers import concurrency
from distill.teachers.server import server_teacher

teacher = partial(server_runs.teacher, retries=2)


@pytest.fixture
def two():
    with FakeServer() as one, FakeServer() as other:
        yield one, other


def test_whoever_is_free_does_the_work_and_the_pairs_are_those_of_one(two, tmp_path):
    quick, slow = two
    quick.latency, slow.latency = 0.01, 1.0  # far apart: a busy machine adds as much to both
    pairs = run(teacher(quick, slow), output=tmp_path / "two.jsonl")
    assert len(quick.asked) + len(slow.asked) == 60
    assert len(quick.asked) > 2 * len(slow.asked) > 0
    assert quick.most_in_flight <= slow.most_in_flight == 4  # a busy machine may keep the quick one from so many
    assert pairs.to_list() == run(teacher(quick)).to_list()
    assert len(run(teacher(slow), output=tmp_path / "two.jsonl")) == 60, "the same journal, by one of them"
    assert len(slow.asked) < 30


@pytest.mark.parametrize("how", ["refuses connections", "drops them", "answers 503", "takes no key any more"])
def test_one_that_dies_costs_time_only(two, how, capsys, monkeypatch, tmp_path):
    """Dead from its tenth request on; what it had under way is done by the other, once."""
    dying, other = two
    dying.latency = other.latency = 0.02
    monkeypatch.setattr(concurrency, "PROBES", (30.0,))
    faults = {"drops them": drop, "answers 503": with_status(503), "takes no key any more": with_status(401)}
    if how in faults:
        dying.fault = lambda number, body: faults[how] if number >= 10 else None
    else:
        threading.Thread(
            target=lambda: (wait_until(lambda: len(dying.asked) > 9), dying.__exit__()), daemon=True
        ).start()
    pairs = run(teacher(dying, other), output=tmp_path / "pairs.jsonl")
    assert len(pairs) == 60
    ids = [json.loads(line)["id"] for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 60
    assert pairs.to_list() == run(teacher(other)).to_list()
    if how != "drops them":  # that may be over before as many are lost as prove that it is gone
        assert "The other addresses go on with its work" in capsys.readouterr().err
    assert not [t for t in threading.enumerate() if t.name == "requests"]


def test_one_that_comes_back_is_used_again(two, monkeypatch, capsys):
    dying, other = two
    other.latency, dying.latency = 0.1, 0.01
    monkeypatch.setattr(concurrency, "PROBES", (0.05,))
    down = threading.Event()
    dying.fault = lambda number, body: with_status(401) if number == 5 else None
    run(teacher(dying, other))
    told = capsys.readouterr().err
    assert "is there again" in told
    assert len(dying.asked) > 20
    down.set()


def test_one_that_comes_back_with_another_model_is_not_used(two, monkeypatch, capsys):
    dying, other = two
    other.latency = 0.05
    monkeypatch.setattr(concurrency, "PROBES", (0.02,))
    asked = teacher(dying, other)
    dying.root = "another"
    dying.fault = lambda number, body: with_status(401) if number == 5 else None
    assert len(run(asked)) == 60
    assert "is there again" not in capsys.readouterr().err
    assert len(dying.asked) < 20


def test_where_all_die_the_run_stops_with_what_it_has(two, tmp_path):
    for server in two:
        server.latency = 0.01
        server.fault = lambda number, body: with_status(401, "no such key") if number >= 8 else None
    path = tmp_path / "pairs.jsonl"
    begun = time.monotonic()
    with pytest.raises(ValueError, match="wants a key"):
        run(teacher(*two), output=path)
    assert time.monotonic() - begun < 10
    assert len(path.read_text().splitlines()) == 16
    for server in two:
        server.fault = None
    assert len(run(teacher(*two), output=path)) == 60


def test_a_request_that_one_loses_is_tried_by_the_other_before_it_is_refused(two):
    bad, other = two
    bad.fault = lambda number, body: drop if "question 5'" in str(body) else None
    assert len(run(teacher(bad, other))) == 60
    other.fault = bad.fault
    with pytest.raises(ValueError, match="1 of 60 completions could not be had.*question 5"):
        run(teacher(bad, other), seed=1)


def test_one_that_is_not_there_at_the_start_is_said_and_all_of_them_an_error(two, capsys):
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    assert len(run(teacher(nobody, two[0]))) == 60
    assert f"Nobody answers at {nobody}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Nobody answers"):
        teacher(nobody, nobody.replace("/v1", "/v2"))


def test_addresses_of_two_models_are_refused(two):
    two[1].root = "another"
    with pytest.raises(ValueError, match="All addresses of one teacher must have the same model"):
        teacher(*two)
    two[1].root, two[1].models = None, ("other",)
    with pytest.raises(ValueError, match="lists other"):
        teacher(*two)
    with pytest.raises(ValueError, match="There is no address"):
        teacher()


def test_addresses_of_a_flag_are_divided_by_commas(two):
    found = server_teacher(f"{two[0].url}, {two[1].url}", None, tokenizer=TOKENIZER, finish_reasons="done=stop")
    assert found.urls == (two[0].url, two[1].url)
    assert found.finish_reasons == {"done": "stop"}
    assert found.identity() == teacher(two[0]).identity()


def test_a_request_that_the_only_other_lost_outlives_the_end_of_this_one(two):
    """It hung for ever: one address lost a request until it was given to the other, and that went while it had it."""
    one, other = two
    one.latency = other.latency = 0.01
    died = threading.Event()

    def kills(number, body):
        if "question 5'" in str(body):
            died.set()
        return with_status(401) if died.is_set() else None

    one.fault, other.fault = kills, lambda number, body: drop if "question 5'" in str(body) else None
    found = []

    def go():
        try:
            run(teacher(one, other, retries=0))
        except ValueError as error:
            found.append(str(error))

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    assert "1 of 60 completions could not be had" in found[0]


def test_what_only_an_address_that_is_gone_could_have_waits_for_it(two, monkeypatch):
    one, other = two
    monkeypatch.setattr(concurrency, "PROBES", (0.3,))
    one.latency, other.latency = 0.01, 0.1
    gone = []

    def once(number, body):
        if "question 5'" in str(body) and not gone:
            gone.append(number)
            return with_status(401)
        return None

    one.fault, other.fault = once, lambda number, body: drop if "question 5'" in str(body) else None
    assert len(run(teacher(one, other, retries=0))) == 60


def test_one_that_is_back_but_answers_nothing_is_asked_ever_more_seldom(two, monkeypatch):
    """`/models` says little of an account without money: four requests a second, for days."""
    broke, other = two
    other.latency = 0.15
    monkeypatch.setattr(concurrency, "PROBES", (0.05, 0.1, 30.0))
    broke.fault = lambda number, body: with_status(402)
    assert len(run(teacher(broke, other))) == 60
    assert len(broke.asked) <= 4 + 2, "all workers once, and then one request each time"


def test_an_address_that_asks_to_wait_is_not_looked_for_before(two, monkeypatch):
    busy, other = two
    other.latency = 0.1
    monkeypatch.setattr(concurrency, "PROBES", (0.01,))
    busy.fault = lambda number, body: with_status(429, Retry_After="4000")
    assert len(run(teacher(busy, other))) == 60
    assert len(busy.asked) <= 4


@pytest.mark.parametrize("first", [True, False])
def test_one_that_still_loads_its_model_is_no_reason_not_to_begin(two, first, capsys):
    loading = two[0]
    loading.models_status = 503
    urls = two if first else two[::-1]
    assert len(run(teacher(*urls))) == 60
    assert "The other addresses begin" in capsys.readouterr().err
