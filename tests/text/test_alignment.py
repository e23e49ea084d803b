"""Two tokenizers: bytes of tokens, places where one of each covers the same bytes, and tokens that both know."""

import random

import numpy as np
import pytest
from tokenizers import normalizers
from two_tokenizers import WORDS, byte_level, pair, permuted, sentence_piece, word_piece

from distill.pairs.aligned_rows import AlignedRows, in_teachers_tokens
from distill.pairs.labels import IGNORE, ids_and_labels
from distill.text.alignment import one_to_one, shared_tokens
from distill.text.token_bytes import TokenBytes

TEXTS = [
    " sat on the mat",
    "the  cat\n\nran",
    " café 日本 \U0001f642 fi",
    " colour of\tit all, 12!",
    "e\u0301 \ufb01 É",
]
LEFT, RIGHT = byte_level(), sentence_piece()


@pytest.mark.parametrize("tokenizer", [LEFT, RIGHT, byte_level(size=400)], ids=["bytes", "pieces", "more"])
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_emitted_ids_are_their_text(tokenizer, text):
    known = TokenBytes(tokenizer)
    assert known.joined(tokenizer(text, add_special_tokens=False)["input_ids"]) == text.encode()


@pytest.mark.parametrize("tokenizer", [LEFT, RIGHT], ids=["bytes", "pieces"])
def test_bytes_agree_with_the_tokenizers_own_decoder(tokenizer):
    known = TokenBytes(tokenizer)
    for number, said in enumerate(known.of):
        if said is not None and said.isascii():
            assert tokenizer.backend_tokenizer.decode([number], skip_special_tokens=False) == said.decode()


def test_one_to_one_is_that_of_a_search_through_all_pairs():
    draw = random.Random(0)
    for _ in range(200):
        ours, theirs = ([draw.randint(1, 4) for _ in range(draw.randint(0, 12))] for _ in range(2))
        spans = [[(sum(side[:i]), sum(side[: i + 1])) for i in range(len(side))] for side in (ours, theirs)]
        expected = [(i, spans[1].index(span)) for i, span in enumerate(spans[0]) if span in spans[1]]
        left, right = one_to_one(np.asarray(ours, np.int64), np.asarray(theirs, np.int64))
        assert list(zip(left.tolist(), right.tolist(), strict=True)) == expected


def test_shared_tokens_have_equal_bytes_and_ends_are_paired_by_hand():
    ours, theirs = TokenBytes(LEFT), TokenBytes(RIGHT)
    found = shared_tokens(ours, theirs)
    pairs = dict(zip(found.student.tolist(), found.teacher.tolist(), strict=True))
    assert pairs.pop(LEFT.eos_token_id) == RIGHT.eos_token_id
    assert all(ours.of[a] == theirs.of[b] and ours.of[a] for a, b in pairs.items())
    assert {ours.of[a] for a in pairs} == {one for one in ours.of if one} & {one for one in theirs.of if one}
    assert len(set(pairs.values())) == len(pairs)


def test_a_permuted_vocabulary_shares_every_token_also_those_that_stand_twice():
    """`A` and `<0x41>` are one byte: each is paired with itself."""
    order = random.Random(1).sample(range(len(RIGHT)), len(RIGHT))
    found = shared_tokens(TokenBytes(RIGHT), TokenBytes(permuted(RIGHT, order)))
    assert found.student.tolist() == list(range(len(RIGHT)))
    assert found.teacher.tolist() == order


def test_a_control_token_is_no_text():
    """A token that means something to one side is spelled by the other: it shares nothing with those letters."""
    other = byte_level(eos="the")  # whose end is called as a word of the other is
    found = shared_tokens(TokenBytes(LEFT), TokenBytes(other))
    assert found.teacher[found.student.tolist().index(LEFT.eos_token_id)] == other.eos_token_id
    assert other.eos_token_id not in np.delete(found.teacher, found.student.tolist().index(LEFT.eos_token_id))


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_a_row_says_the_same_text_in_the_teachers_tokens(text, ended):
    rows, given = AlignedRows(LEFT, RIGHT), pair(LEFT, text, ended=ended)
    row = rows.row(given, *ids_and_labels(given))
    said = row.ids[row.labels != IGNORE]
    assert (said[-1] == RIGHT.eos_token_id) == ended
    assert rows.teacher.joined(said[: len(said) - ended].tolist()) == text.encode()
    own = np.asarray(given["completion_ids"])
    for place, other in zip(row.ours, row.theirs, strict=True):
        a, b = int(own[place]), int(said[other])
        assert rows.student.of[a] == rows.teacher.of[b]  # None for both ends
        assert rows.student.joined(own[:place].tolist()) == rows.teacher.joined(said[:other].tolist())
    assert row.coverage.aligned == len(row.ours)
    assert row.coverage.aligned + row.coverage.several == row.coverage.positions == len(own)
    assert (len(own) - 1 in row.ours) == ended or not ended


def test_emitted_ids_are_aligned_and_not_what_their_text_is_encoded_as():
    given = pair(LEFT, " the mat")
    letters = [LEFT.convert_tokens_to_ids(one) for one in "Ġtheca"]  # nobody encodes so
    given |= {"completion_ids": [*letters, LEFT.eos_token_id], "completion": " theca"}
    row = AlignedRows(LEFT, RIGHT).row(given, *ids_and_labels(given))
    assert row.coverage.positions == len(letters) + 1
    assert row.coverage.aligned < len(letters)


def test_what_stands_behind_a_control_token_or_broken_bytes_is_not_compared():
    rows, given = AlignedRows(LEFT, RIGHT), pair(LEFT, " the mat")
    n = len(given["completion_ids"])
    twice = {**given, "completion_ids": given["completion_ids"] * 2}
    found = rows.row(twice, *ids_and_labels(twice)).coverage
    assert (found.positions, found.control) == (2 * n, n + 1)
    broken = LEFT.convert_tokens_to_ids("Ã")  # the byte C3, and nothing behind it
    cut = {**given, "completion_ids": [*given["completion_ids"][:-1], broken, *given["completion_ids"]]}
    found = rows.row(cut, *ids_and_labels(cut)).coverage
    assert (found.positions, found.control) == (2 * n, n + 1)


def test_max_length_cuts_both_sides_and_the_key_is_of_the_whole_pair():
    rows, given = AlignedRows(LEFT, RIGHT), pair(LEFT, " sat on the mat and the dog ran")
    whole, cut = (rows.row(given, *ids_and_labels(given, limit)) for limit in (None, len(given["prompt_ids"]) + 4))
    assert whole.key == cut.key
    assert len(cut.ids) < len(whole.ids)
    assert cut.coverage.positions == 4
    assert set(cut.ours.tolist()) == {place for place in whole.ours.tolist() if place < 4}


def test_a_tokenizer_that_changes_text_is_named_and_not_compared_there():
    lower = sentence_piece(normalizer=normalizers.Lowercase())
    rows, given = AlignedRows(LEFT, lower), pair(LEFT, " the Cat sat")
    found = rows.row(given, *ids_and_labels(given)).coverage
    assert found.changed >= 3
    assert rows.teacher.changes()[0] == "a capital letter"
    assert TokenBytes(LEFT).changes() == []


def test_a_row_beyond_the_teachers_positions_is_cut_and_said(caplog):
    rows, given = AlignedRows(LEFT, RIGHT, positions=8), pair(LEFT, " sat on the mat and the dog ran")
    row = rows.row(given, *ids_and_labels(given))
    assert len(row.ids) <= 8
    assert row.coverage.beyond > 0
    assert "8 positions" in caplog.text
    with pytest.raises(ValueError, match="prompt of .* tokens in the teacher's tokens, but the teacher has 2"):
        AlignedRows(LEFT, RIGHT, positions=2).row(given, *ids_and_labels(given))


def test_bad_input_is_refused_by_name():
    given = pair(LEFT, " the mat")
    rows = AlignedRows(LEFT, RIGHT)
    with pytest.raises(ValueError, match="WordPiece.*blanks"):
        TokenBytes(word_piece())
    no_words = {name: value for name, value in given.items() if name != "prompt"}
    chat = {**given, "prompt": [{"role": "user", "content": "a"}]}
    shown = {**given, "teacher_prompt_ids": [1]}
    for bad, why in (
        (no_words, "p0 has token ids and no words"),
        (chat, "p0: .*no chat template"),
        (shown, "teacher_prompt_ids.*give its words"),
    ):
        with pytest.raises(ValueError, match=why):
            rows.row(bad, *ids_and_labels(bad))
    with pytest.raises(ValueError, match="says nothing"):
        rows.pair({**given, "completion_ids": [LEFT.eos_token_id] * 3})


def test_pairs_in_the_teachers_tokens_are_the_rows_that_it_is_shown():
    given = [pair(LEFT, text, number=i) for i, text in enumerate(TEXTS)]
    rows = AlignedRows(LEFT, RIGHT)
    made = in_teachers_tokens(given, LEFT, RIGHT)
    for one, own in zip(made, given, strict=True):
        row = rows.row(own, *ids_and_labels(own))
        assert [*one["prompt_ids"], *one["completion_ids"]] == row.ids.tolist()


def test_texts_of_these_tokenizers_are_what_they_were_trained_on():
    assert all(LEFT.decode(LEFT(text)["input_ids"]) == text for text in WORDS)
