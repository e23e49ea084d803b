"""A server's log-probabilities of a prompt are stored as a local teacher's are: over HTTP, from a real model behind it, in each shape servers use."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import build_model, build_pairs
from fake_server import FakeServer, with_status
from signal_runs import batch_of, captured, contents
from signal_runs import teacher as any_teacher

from distill import AttentionMaps, HiddenStates
from distill.basics.jsonl import CHECKSUM, seal
from distill.signals import SignalRequest, StoredSignals
from distill.signals.capturing import reader_of
from distill.signals.encodings import encoding_of
from distill.signals.facts import as_said_then
from distill.signals.shards import shards_in
from distill.signals.teacher_rows import as_tables, rows_of, teachers_pairs
from distill.teachers import ServerTeacher

MOST = 8
TOKENS = 308  # of the tokenizer; a head of more has slots that are none


def teacher():
    return any_teacher(vocab_size=TOKENS)


def log_probs_of(ids):
    with torch.no_grad():
        return teacher().model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def by_ids(body, payload):
    """As vLLM answers `prompt_logprobs`: None for the first token, then ids to values, the token itself always among them."""
    if (k := body.get("prompt_logprobs")) is None:
        return
    ids, places = body["prompt"], [None]
    said = log_probs_of(ids)
    for before, token in enumerate(ids[1:]):
        top = dict.fromkeys([*said[before].topk(k).indices.tolist(), token])
        places.append({str(t): {"logprob": float(said[before, t]), "rank": 1, "decoded_token": "?"} for t in top})
    payload["choices"][0]["prompt_logprobs"] = places


def echoed(as_ids):
    """As OpenAI's completions answer `echo` with `logprobs`, one generated token behind the prompt; tokens by text or by id."""

    def change(body, payload):
        if not body.get("echo"):
            return
        ids, tokenizer = body["prompt"], teacher().tokenizer

        def text(token):
            return f"token_id:{token}" if as_ids else tokenizer.decode([token])

        said = log_probs_of(ids)
        own = [None, *(float(said[i, token]) for i, token in enumerate(ids[1:])), -1.0]
        top = [
            None,
            *(
                {text(t): float(said[i, t]) for t in said[i].topk(body["logprobs"]).indices.tolist()}
                for i in range(len(ids))
            ),
        ]
        payload["choices"][0]["logprobs"] = {
            "tokens": [text(t) for t in ids] + ["x"],
            "token_logprobs": own,
            "top_logprobs": top,
        }

    return change


def served(url):
    return ServerTeacher(url, tokenizer=teacher().tokenizer, retries=0, concurrency=4)


@pytest.mark.parametrize("shape", ["prompt_logprobs", "echo of ids", "echo of texts"])
def test_what_a_server_gives_is_what_the_local_teacher_gives(tmp_path, shape):
    # a server gives exactly what it is asked for; of the tiny tokenizer's texts some stand for two tokens
    change = {"prompt_logprobs": by_ids, "echo of ids": echoed(True), "echo of texts": echoed(False)}[shape]
    pairs = build_pairs(9)
    here = captured(tmp_path / "here", pairs, teacher(), encoding=f"top:{MOST}")
    with FakeServer(change=change) as server:
        there = captured(tmp_path / "there", pairs, served(server.url), encoding=f"top:{MOST}")
        asked = len(server.asked)
        captured(tmp_path / "there", pairs, served(server.url), encoding=f"top:{MOST}")
        assert len(server.asked) == asked
        if shape != "echo of texts":  # where more are asked for until enough have an id
            assert asked <= 10, "each once, and the way once more"
    batch, where = batch_of(list(pairs))
    ours, theirs = (one.signals(batch, where, SignalRequest()).sparse for one in (here, there))
    total = theirs.log_probs.exp().sum(1) + theirs.tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-3)
    if shape != "echo of texts":  # in which a likely token may have no name of its own
        order = [one.ids.sort(dim=1) for one in (ours, theirs)]
        assert torch.equal(order[0].values, order[1].values)
        values = [one.log_probs.gather(1, by.indices) for one, by in zip((ours, theirs), order, strict=True)]
        torch.testing.assert_close(*values, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.tail, theirs.tail, rtol=1e-3, atol=1e-3)
    truth = torch.cat(
        [
            log_probs_of([*pair["prompt_ids"], *pair["completion_ids"]])[len(pair["prompt_ids"]) - 1 : -1]
            for pair in pairs
        ]
    )
    torch.testing.assert_close(theirs.log_probs, truth.gather(1, theirs.ids), rtol=1e-3, atol=2e-3)
    assert (theirs.ids == where.next_tokens(_labels(pairs))[:, None]).any(1).all(), "the emitted token is forced in"
    assert there.facts.next_token == "top"
    assert "top k=8" in there.identity(None)
    assert "fake" in there.identity(None)


def _labels(pairs):
    from conftest import build_tokenizer

    from distill.pairs.collate import PairCollator

    return PairCollator(build_tokenizer())(list(pairs))["labels"]


def test_the_teacher_is_shown_its_own_prompt(tmp_path):
    pairs = build_pairs(3).add_column("teacher_prompt_ids", [[5, 6, 7], None, [9]])
    with FakeServer(change=by_ids) as server:
        found = captured(tmp_path / "signals", pairs, served(server.url), encoding="top:4")
        sent = sorted(one["prompt"] for one in server.asked)
    assert sent == sorted([*(p["teacher_prompt_ids"] or p["prompt_ids"]), *p["completion_ids"]] for p in pairs)
    found.check(pairs)


def test_slots_of_a_padded_head_are_part_of_the_tail(tmp_path):
    def padded(body, payload):
        by_ids(body, payload)
        for place in payload["choices"][0]["prompt_logprobs"][1:]:
            place[str(TOKENS + 3)] = {"logprob": -30.0}

    def likely(body, payload):
        by_ids(body, payload)
        for place in payload["choices"][0]["prompt_logprobs"][1:]:  # among the k, in the place of one
            del place[list(place)[1]]
            place[str(TOKENS + 3)] = {"logprob": -30.0}

    with FakeServer(change=likely) as server:
        captured(tmp_path / "likely", build_pairs(3), served(server.url), encoding="top:4")
        assert [one["prompt_logprobs"] for one in server.asked].count(8) >= 1, "more are asked for"
    with FakeServer(change=padded) as server:
        found = captured(tmp_path / "signals", build_pairs(3), served(server.url), encoding="top:4")
    batch, where = batch_of(list(build_pairs(3)))
    assert int(found.signals(batch, where, SignalRequest()).sparse.ids.max()) < TOKENS == found.facts.vocabulary


def halved(body, payload):
    """A server that gives two tokens however many it is asked for."""
    by_ids(body, payload)
    places = payload["choices"][0]["prompt_logprobs"]
    for place in places[1:]:
        for token in list(place)[2:-1]:
            del place[token]


def unnamed(body, payload):
    """One that gives no more than it was first asked for, and a slot beyond the tokenizer is one of these."""
    if body.get("prompt_logprobs", 0) > 4:
        payload.clear()
        return
    by_ids(body, payload)
    for own, place in zip(body["prompt"][1:], payload["choices"][0]["prompt_logprobs"][1:], strict=True):
        for number, token in enumerate([token for token in place if token != str(own)][2:]):
            place[str(TOKENS + 3 + number)] = place.pop(token)


def doubtful(body, payload):
    by_ids(body, payload)
    for place in payload["choices"][0]["prompt_logprobs"][1:]:
        for value in place.values():
            value["logprob"] = math.log(0.5)


def renormalised(body, payload):
    by_ids(body, payload)
    for place in payload["choices"][0]["prompt_logprobs"][1:]:
        whole = math.log(sum(math.exp(value["logprob"]) for value in place.values()))
        for value in place.values():
            value["logprob"] -= whole


def shorter(body, payload):
    by_ids(body, payload)
    payload["choices"][0]["prompt_logprobs"].pop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            None,
            r"gives no log-probabilities of pair row\d \(prompt_logprobs: no log-probabilities of the prompt in the shape of 'prompt_logprobs' .*; echo: no",
        ),
        (
            halved,
            r"gave [23] tokens at a place of pair row\d, [23] of them .* 4 are wanted; .* it gives no more\. .*--max-logprobs.*'top:[23]'",
        ),
        (
            unnamed,
            r"gave [45] tokens at a place of pair row\d, [34] of them .* slots beyond .* asked for 8, .*raise it, or .*'top:3'",
        ),
        (doubtful, r"probabilities that sum to 2\.\d+, at place 1 of the prompt"),
        (
            renormalised,
            r"renormalised over the tokens it lists: at (\d+) of \1 places .* nothing is left for all others\. The mass of the tail",
        ),
        (shorter, r"of \d+ tokens, where \d+ were sent"),
    ],
)
def test_answers_that_cannot_be_used_are_refused_with_the_pair(tmp_path, change, said):
    with FakeServer(change=change) as server, pytest.raises(ValueError, match=said):
        captured(tmp_path / "signals", build_pairs(3), served(server.url), encoding="top:4")
    assert not contents(tmp_path / "signals")


def test_once_the_way_is_known_all_pairs_of_a_batch_are_asked_at_once():
    """Two batches: the second one has no request that goes alone."""
    with FakeServer(change=by_ids, latency=0.5) as server:
        reader = reader_of(served(server.url))
        pairs = build_pairs(5)
        rows = rows_of(pairs, None, reader.limits)
        reader.open(encoding_of("top:4"))
        for numbers in (np.array([0]), np.array([1, 2, 3, 4])):
            reader.read(teachers_pairs(as_tables(pairs), numbers, None), rows, numbers)
        assert (len(server.asked), server.most_in_flight) == (5, 4)


def test_a_few_places_that_look_renormalised_are_told(tmp_path, capsys):
    pairs = build_pairs(1)
    pairs = pairs.remove_columns("completion_ids").add_column("completion_ids", [pairs[0]["completion_ids"][:2]])
    with FakeServer(change=renormalised) as server:
        captured(tmp_path / "signals", pairs, served(server.url), encoding="top:4")
    said = capsys.readouterr()
    assert "renormalised over the tokens it lists: at" in said.out + said.err


def test_a_sharp_teacher_is_not_taken_for_a_renormalised_one(tmp_path, capsys):
    """The four likeliest tokens have all but 1e-7 of the mass, at every place; the last of them next to nothing."""

    def sharp(body, payload):
        by_ids(body, payload)
        for place in payload["choices"][0]["prompt_logprobs"][1:]:
            for token, value in zip(place.values(), (0.9, 0.0999899, 1e-5, 1e-8, 1e-9), strict=False):
                token["logprob"] = math.log(value)

    with FakeServer(change=sharp) as server:
        captured(tmp_path / "signals", build_pairs(3), served(server.url), encoding="top:4")
    said = capsys.readouterr()
    assert "renormalised" not in said.out + said.err


def test_only_top_can_be_had_of_a_server(tmp_path):
    with FakeServer(change=by_ids) as server:
        for changes in ({}, {"encoding": "threshold"}, {"encoding": "top", "temperature": 2.0}):
            with pytest.raises(
                ValueError,
                match=r"likeliest tokens at temperature 1 .* stored as encoding='top', not '(hidden|threshold|top)'",
            ):
                captured(tmp_path / "signals", build_pairs(3), served(server.url), **changes)
        assert not server.asked


def test_objectives_of_the_inside_are_refused_of_a_server_by_their_name(tmp_path):
    with FakeServer(change=by_ids) as server:
        found = captured(tmp_path / "signals", build_pairs(3), served(server.url), encoding="top:4")
    for objective in (HiddenStates(), AttentionMaps()):
        with pytest.raises(
            ValueError, match="alone, and no (hidden states|attention).* take HiddenStates and AttentionMaps out"
        ):
            objective.bind(build_model(), found.facts)


def test_a_server_that_goes_leaves_what_was_written(tmp_path):
    pairs, folder = build_pairs(12), tmp_path / "signals"
    with FakeServer(change=by_ids) as server:
        captured(folder, pairs.select(range(5)), served(server.url), encoding="top:4")
        gone = served(server.url)
    with pytest.raises(ValueError, match=r"Nobody answers at|gives no log-probabilities"):
        captured(folder, pairs, gone, encoding="top:4")
    assert len(StoredSignals(folder)) == 5
    with FakeServer(change=by_ids) as server:
        assert len(captured(folder, pairs, served(server.url), encoding="top:4")) == 12
        assert len(server.asked) == 7


def test_further_fields_of_requests_are_of_the_identity(tmp_path, capsys):
    """A LoRA module that a server is told to apply, say; without any, a folder of before is continued."""
    pairs = build_pairs(4)
    with FakeServer(change=by_ids) as server:
        found = captured(tmp_path / "signals", pairs, served(server.url), encoding=f"top:{MOST}")
        assert found.manifest["teacher"]["extra_body"] == {}
        other = ServerTeacher(server.url, tokenizer=teacher().tokenizer, retries=0, extra_body={"lora": "legal"})
        with pytest.raises(ValueError, match=r"teacher.extra_body.lora: None there, 'legal' now"):
            captured(tmp_path / "signals", pairs, other, encoding=f"top:{MOST}")
        # an earlier version did not note them
        manifest = json.loads((tmp_path / "signals" / "manifest.json").read_text())
        manifest.pop(CHECKSUM)
        del manifest["teacher"]["extra_body"]
        (tmp_path / "signals" / "manifest.json").write_text(json.dumps({**manifest, CHECKSUM: seal(manifest)}))
        for path in shards_in(tmp_path / "signals"):
            path.unlink()
        before = StoredSignals(tmp_path / "signals")
        with FakeServer(fault=lambda number, body: with_status(400, "no such module")) as broken:
            gone = ServerTeacher(broken.url, tokenizer=teacher().tokenizer, retries=0, extra_body={"lora": "leggal"})
            with pytest.raises(ValueError, match="no such module"):
                captured(tmp_path / "signals", pairs, gone, encoding=f"top:{MOST}")
        captured(tmp_path / "signals", pairs, other, encoding=f"top:{MOST}")
        assert "they are taken to have been {'lora': 'legal'}" in capsys.readouterr().err
        # another word for a run, which goes on from a checkpoint of before all the same; and on a card
        now = StoredSignals(tmp_path / "signals")
        assert now.identity(None) != before.identity(None) == as_said_then(before.identity(None), now.identity(None))
        assert now.teachers()[0].identity()["teacher_extra_body"] == {"lora": "legal"}
        # and what was taken is noted: the next capture may not have others
        for another in (
            served(server.url),
            ServerTeacher(server.url, tokenizer=teacher().tokenizer, retries=0, extra_body={"lora": "other"}),
        ):
            with pytest.raises(ValueError, match=r"teacher.extra_body.lora: 'legal' there, (None|'other') now"):
                captured(tmp_path / "signals", pairs, another, encoding=f"top:{MOST}")
        capsys.readouterr()
        captured(tmp_path / "signals", pairs, other, encoding=f"top:{MOST}")
        assert "taken" not in capsys.readouterr().err
        with pytest.raises(ValueError, match="beside the ServerTeacher"):
            captured(tmp_path / "signals", pairs, other, encoding=f"top:{MOST}", tokenizer=teacher().tokenizer)
