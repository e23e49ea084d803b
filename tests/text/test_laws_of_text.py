"""Laws at the edges of a text: a limit counts itself in, and tags are seen however a tokenizer spells them."""

import pytest
from conftest import TEMPLATE, build_tokenizer

from distill.text.encode import encode_prompt, opens_trace

OPENED = TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
SENTENCE = "Photosynthesis is the process by which green plants make their food from light"


@pytest.mark.parametrize(("template", "opens"), [(OPENED, True), (TEMPLATE, False)])
def test_an_open_trace_is_seen_in_ids_as_in_text_where_the_tag_is_many_tokens(template, opens):
    """A tokenizer without the tag spells it with characters, one token each."""
    tokenizer = build_tokenizer(template)
    prompt = [{"role": "user", "content": "what is a cat"}]
    ids = encode_prompt(prompt, tokenizer)
    assert len(tokenizer("<think>\n", add_special_tokens=False)["input_ids"]) > 4
    assert opens_trace(prompt, tokenizer) is opens_trace(ids, tokenizer) is opens


def test_a_text_of_exactly_the_least_letters_is_told_and_a_shorter_one_is_not():
    pytest.importorskip("py3langid", reason="the extra inspect is not installed")
    from distill.text.language import languages_of

    letters = sum(map(str.isalpha, SENTENCE))
    assert languages_of([SENTENCE], shortest=letters) == ["en"]
    assert languages_of([SENTENCE], shortest=letters + 1) == [None]
    assert languages_of([f"{SENTENCE} 1234 !!!"], shortest=letters + 1) == [None], "only letters count"
