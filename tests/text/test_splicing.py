"""Text changed within token ids: the other tokens stay, and what is said is what was meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.text.splicing import Edit, Splicer

TEXT = "the cat sat on the mat, and 猫 the dog ran: 42"


@pytest.fixture(scope="module")
def splicer(tokenizer):
    return Splicer(tokenizer)


def test_only_the_words_around_a_change_get_new_tokens(splicer, tokenizer):
    ids = tokenizer.encode(TEXT)
    at = TEXT.index("mat")
    new, origin = splicer.spliced(ids, [Edit(at, at + 3, "colour")])
    assert tokenizer.decode(new) == TEXT.replace("mat", "colour")
    assert new == tokenizer.encode(TEXT.replace("mat", "colour"))
    assert len(new) == len(origin)
    kept = [(token, place) for token, place in zip(new, origin, strict=True) if ids[place] == token]
    assert len(kept) > len(ids) // 2


def test_tokens_that_no_encoder_would_choose_stay(splicer, tokenizer):
    """A teacher's own: each letter by itself."""
    ids = [i for c in "the cat sat" for i in tokenizer.encode(c)]
    assert ids != tokenizer.encode("the cat sat")
    new, _ = splicer.spliced(ids, [Edit(8, 11, "ran")])
    assert new[:7] == ids[:7]
    assert tokenizer.decode(new) == "the cat ran"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_edits_give_the_text_that_they_say(data, splicer, tokenizer):
    text = data.draw(st.text("ab 猫é\n.@1", min_size=1, max_size=40))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    edits = [Edit(a, b, data.draw(st.text("xyz 9犬", max_size=4))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    ids = tokenizer.encode(text)
    assert splicer.text(ids) == text
    expected, done = "", 0
    for start, end, new in edits:
        expected, done = expected + text[done:start] + new, end
    new_ids, origin = splicer.spliced(ids, edits)
    assert splicer.text(new_ids) == expected + text[done:]
    assert origin == sorted(origin)


def test_a_control_token_is_no_text_to_be_changed(splicer, tokenizer):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], return_dict=False)
    text = splicer.text(ids)
    at = text.index("<|im_end|>")
    with pytest.raises(ValueError, match="control token"):
        splicer.spliced(ids, [Edit(at - 3, at + 4, "x")])
    new, _ = splicer.spliced(ids, [Edit(at - 3, at, "dog")])
    assert tokenizer.decode(new) == text.replace("cat", "dog")
    assert [i for i in new if i in tokenizer.all_special_ids] == [i for i in ids if i in tokenizer.all_special_ids]
