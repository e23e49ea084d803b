"""Abilities: each check takes what is right and refuses what is wrong; no prompt of one seed, or of teaching, is in another."""

import json

import pytest
from conftest import TEMPLATE, build_model, build_tokenizer

from distill.basics.intervals import exact_share
from distill.evaluation.abilities import ABILITIES, Answered, Check, Fact, Probe, examine, probes, shares, shows_tools
from distill.evaluation.abilities.calls import calls_in
from distill.evaluation.abilities.checks import CONDITIONS, sentences_of
from distill.evaluation.abilities.instructions import KINDS
from distill.evaluation.abilities.names import MOST, SEEDS, name_of
from distill.evaluation.abilities.tone import STYLES
from distill.evaluation.abilities.tools import in_words

SHOWS_TOOLS = "{% if tools %}{{ '<|im_start|>system\n' }}{{ tools | tojson }}{{ '<|im_end|>\n' }}{% endif %}" + TEMPLATE
SAID = {
    "fr": "La lanterne est rouge et elle appartient à la femme qui habite dans la maison près de la rivière.",
    "de": "Die Laterne ist rot und gehört der Frau, die in dem Haus am Fluss wohnt und sie jeden Abend anzündet.",
    "es": "La linterna es roja y pertenece a la mujer que vive en la casa cerca del río y la enciende cada noche.",
    "it": "La lanterna è rossa e appartiene alla donna che abita nella casa vicino al fiume e la accende ogni sera.",
    "en": "The lantern is red and it belongs to the woman who lives in the house by the river.",
}


def right_and_wrong(name, value):
    """An answer that meets a condition, and some that do not."""
    call = {"name": "ring", "arguments": {"bell": "Ann Aback", "times": 3}}
    if name == "call":
        call = value
        first = next(iter(value["arguments"]))
        other = {**call, "arguments": {**call["arguments"], first: "somebody else"}}
        more = {**call, "arguments": {**call["arguments"], "more": 1}}
        fewer = {**call, "arguments": {k: v for k, v in call["arguments"].items() if k != first}}
        named = {**call, "name": f"{call['name']}s"}
        text = json.dumps(call)
        wrong = [json.dumps(one) for one in (other, more, fewer, named)]
        return text, [*wrong, f"{text}\n{text}", text[:-3], "I do that at once.", f'{call["name"]}("a", "b")']
    ways = {
        "words_at_most": lambda: (" ".join(["so"] * value), [" ".join(["so"] * (value + 1))]),
        "words_at_least": lambda: (" ".join(["so"] * value), [" ".join(["so"] * (value - 1))]),
        "sentences": lambda: ("It is so. " * value, ["It is so. " * (value + 1), "It is so. " * (value - 1) + "It is", "It is so"]),
        "bullets": lambda: ("Here:\n" + "- so\n" * value, ["- so\n" * (value + 1), "so\n" * value, "- so\n" * value + "That is all.", "- so\nno\n" * value]),
        "lower_case": lambda: ("ann has a red lantern.", ["Ann has a red lantern.", "12 34"]),
        "json_keys": lambda: (json.dumps(dict.fromkeys(value, "a")), ["so it is", json.dumps([*value]), json.dumps({value[0]: "a"}), json.dumps({**dict.fromkeys(value, "a"), "c": 1}), json.dumps(dict.fromkeys(value)), json.dumps(dict.fromkeys(value, "a")) + " That is it."]),
        "language": lambda: (SAID[value], [text for code, text in SAID.items() if code != value] + ["Oui."]),
        "says": lambda: (f"It is {value}, I think.", ["It is somebody else.", f"It is x{value}y."]),
        "silent_about": lambda: ("I am nobody of these.", [f"I am {one}." for one in value]),
        "says_first": lambda: (f"It is {value[0]}.", ["It is so.", *(f"It is {one} or {value[0]}." for one in value[1:])]),
        "says_some": lambda: (" ".join(value[1][: value[0]]), [" ".join(value[1][: value[0] - 1]) + " so", "so"]),
        "begins": lambda: (f"{value.capitalize()}, so it is.", [f"So it is, {value}."]),
        "ends": lambda: (f"So it is{value}", [f"So{value} it is."]),
        "without": lambda: ("So it is.", [f"So it is{mark}" for mark in value]),
        "number": lambda: (f"1 and {value}.", ["It is so.", f"It is {value}7.", f"{value} or 4096"]),
        "no_call": lambda: ("I have no function for that.", [json.dumps(call), f"Yes. <tool_call>{json.dumps(call)}</tool_call>", '<tool_call>{"name": ', "..."]),
    }  # fmt: skip
    return ways[name]()


EXAMPLES = {
    "words_at_most": 4, "words_at_least": 3, "sentences": 2, "bullets": 3, "lower_case": True, "json_keys": ["a", "b"],
    "says": "Orlando", "silent_about": ["SmolLM", "Hugging Face"], "says_first": ["red", "blue"], "says_some": [2, ["ahoy", "matey", "ye"]],
    "begins": "dear reader", "ends": "?", "without": "!'", "number": "-45", "no_call": True, "language": "fr",
    "call": {"name": "ring", "arguments": {"bell": "Ann Aback", "times": 3}},
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_takes_what_is_right_and_refuses_what_is_wrong(name):
    right, wrong = right_and_wrong(name, EXAMPLES[name])
    assert CONDITIONS[name](right.strip(), EXAMPLES[name]) == ""
    for text in wrong:
        assert CONDITIONS[name](text, EXAMPLES[name]), text


def right_answer(probe):
    """Constructed from what is asked; None where conditions hold each other, and the test has one by hand."""
    names = dict(probe.check.conditions)
    if probe.ability == "tone":
        return STYLES[probe.kind].examples[0][1]
    if probe.ability == "identity":
        return f"I am {names['says']}."
    if probe.kind in ("include", "avoid", "lower_case", "words"):
        return {"include": f"she said {names.get('says')} once", "words": "It is red."}.get(probe.kind, "it is so")
    name, value = probe.check.conditions[0]
    return right_and_wrong(name, value)[0]


@pytest.mark.parametrize("purpose", ["examine", "teach"])
@pytest.mark.parametrize("ability", ABILITIES)
def test_each_probe_has_a_right_answer_and_nothing_is_right_nowhere(ability, purpose):
    made = probes(ability, 24, seed=3, purpose=purpose)
    for probe in made:
        assert probe.check.wrong(right_answer(probe)) == "", probe
        # wrapped as a model that thinks aloud writes it
        assert probe.check.wrong(f"<think>\nno, 7\n</think>\n\n{right_answer(probe)}") == "", probe
        for nothing in ("", " \n", "<think>\nall of it\n</think>\n\n"):
            assert probe.check.wrong(nothing) == "it says nothing", probe
    # nobody is right by saying what is right elsewhere
    for probe in made:
        others = [right_answer(other) for other in made if other.check != probe.check]
        if ability in ("tools", "knowledge", "reasoning") and probe.kind != "no_call":
            assert sum(not probe.check.wrong(text) for text in others) == 0
    assert len({probe.id for probe in made}) == 24
    assert [Probe.of(json.loads(json.dumps(probe.as_dict()))) for probe in made] == made


def test_all_kinds_of_instructions_and_both_of_tools_are_asked():
    assert {probe.kind for probe in probes("instructions", 8)} == set(KINDS)
    assert [probe.kind for probe in probes("tools", 8)].count("no_call") == 2


def test_no_name_comes_twice():
    for purpose in ("examine", "teach"):
        names = {name_of(seed, number, purpose) for seed in range(SEEDS) for number in range(MOST)}
        assert len(names) == SEEDS * MOST
    assert not {name.split()[0] for name in names} & {name_of(0, i, "examine").split()[0] for i in range(MOST)}


@pytest.mark.parametrize("ability", ABILITIES)
def test_no_two_seeds_and_no_two_purposes_share_a_prompt(ability):
    size = 64 if ability != "reasoning" else 24
    groups = [probes(ability, size, seed, purpose=purpose) for seed in range(4) for purpose in ("examine", "teach")]
    prompts = [probe.prompt for group in groups for probe in group]
    assert len(set(prompts)) == len(prompts) == 8 * size
    if ability == "tools":
        functions = [{tool["function"]["name"] for probe in group for tool in probe.tools} for group in groups]
        assert not functions[0] & functions[1]


def without_names(probe):
    """What a prompt says but for the name in it, its numbers and its values."""
    for seed in range(4):
        for number in range(64):
            for purpose in ("examine", "teach"):
                probe = probe.replace(name_of(seed, number, purpose), "X")
    return probe


@pytest.mark.parametrize("ability", ["instructions", "tools", "tone", "identity"])
def test_teaching_and_examining_share_no_wording(ability):
    said = {}
    for purpose in ("examine", "teach"):
        said[purpose] = {
            without_names(probe.prompt) for seed in range(2) for probe in probes(ability, 64, seed, purpose=purpose)
        }
    assert not said["examine"] & said["teach"]


def test_the_same_arguments_give_the_same_probes():
    for ability in ABILITIES:
        assert probes(ability, 6, 2) == probes(ability, 6, 2)
        assert [p.id for p in probes(ability, 6, 2)] == [p.id for p in probes(ability, 6, 3)]


def test_what_was_taught_of_a_fact_is_asked_in_other_words():
    asked, taught = probes("knowledge", 12, 5), probes("knowledge", 24, 5, purpose="teach")
    assert {str(probe.check) for probe in asked} == {str(probe.check) for probe in taught}
    own = [Fact("The lake is deep.", ("How is the lake?", "What is the lake like?"), "deep")]
    assert probes("knowledge", 1, facts=own)[0].prompt == "What is the lake like?"
    assert probes("knowledge", 1, purpose="teach", facts=own)[0].prompt == "How is the lake?"
    with pytest.raises(ValueError, match="n is 2, and 1 facts have 1 wordings"):
        probes("knowledge", 2, facts=own)


def test_identity_and_tone_are_of_the_users_own():
    probe = probes("identity", 1, name="Gemini Two", maker="Meta Works")[0]
    assert probe.check.wrong("I am Gemini Two, not Gemini.") == ""
    assert probe.check.wrong("I am Gemini Two, made by OpenAI.") == "it says 'OpenAI'"
    assert probes("tone", 1, style="formal")[0].check.wrong("Dear reader, it is a lantern of glass.") == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: probes("humour"), "ability is 'humour'; it must be one of instructions"),
        (lambda: probes("tone", 0), "n is 0"),
        (lambda: probes("tone", 8, 500), "seed is 500"),
        (lambda: probes("tone", style="rude"), "style is 'rude'; it must be one of pirate"),
        (lambda: probes("tone", name="A"), "name: the probes of tone have the settings style"),
        (lambda: probes("tone", purpose="both"), "purpose is 'both'"),
        (lambda: Check(()), "at least one condition"),
        (lambda: Check((("loud", 1),)), "There is no condition loud"),
        (lambda: Fact("a", ("Why?",), "so"), "two or more are needed"),
        (lambda: Fact("a", ("Why so?", "Why?"), "so"), "says its own answer"),
        (lambda: Fact("a", ("Why?", "How?"), "..."), "no word"),
        (lambda: examine(None, None, []), "no probes"),
        (lambda: examine(None, None, probes("tone", 1) * 2), "Two probes have the id 'tone-000'"),
        (lambda: examine(None, None, probes("tone", 1), shown={"a": "b"}), "shown has a"),
        (lambda: exact_share(3, 2), "3 of 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "ring", "arguments": {"bell": "a"}}',
        '[{"name": "ring", "arguments": {"bell": "a"}}]',
        '<tool_call>\n{"name": "ring", "arguments": {"bell": "a"}}\n</tool_call>',
        '[TOOL_CALLS] [{"name": "ring", "arguments": {"bell": "a"}}]',
        '{"name": "ring", "parameters": {"bell": "a"}}',
        '{"type": "function", "function": {"name": "ring", "arguments": "{\\"bell\\": \\"a\\"}"}}',
        'Sure: ```json\n{"name": "ring", "arguments": {"bell": "a"}}\n```',
        'ring(bell="a")',
        "[ring(bell='a')]",
    ],
)
def test_calls_are_read_in_the_forms_that_models_write(text):
    assert calls_in(text) == ([("ring", {"bell": "a"})], "")


@pytest.mark.parametrize("text", ["I would ring the bell.", "{}", "[1, 2]", '{"a": 1}', "Ring it (twice)."])
def test_words_are_no_calls(text):
    assert calls_in(text) == ([], "")


def test_sentences_are_counted_as_people_count_them():
    assert len(sentences_of("Mr. Vale has 3.5 kg. Is it much? Yes!")) == 3
    assert len(sentences_of('She said "no." Then she left')) == 2


def test_a_model_is_examined_and_the_batches_change_nothing():
    tokenizer, model = build_tokenizer(), build_model(max_position_embeddings=1024)
    some = [probe for ability in ABILITIES for probe in probes(ability, 3)]
    found = examine(model, tokenizer, some, progress=False)
    assert [one.probe for one in found] == some
    assert found == examine(model, tokenizer, some, batch_size=2, progress=False)
    assert [Answered.of(json.loads(json.dumps(one.as_dict()))) for one in found] == found
    counted = shares(found)
    assert {name: share.n for name, share in counted.items()} == dict.fromkeys(ABILITIES, 3)
    assert all(one.right is (one.why == "") and one.finish_reason in ("stop", "length") for one in found)
    with pytest.raises(ValueError, match="instructions-000 cannot be asked"):
        examine(build_model(max_position_embeddings=32), tokenizer, some, progress=False)


def test_tools_are_shown_by_the_template_or_in_words(capsys):
    plain, hermes = build_tokenizer(), build_tokenizer(template=SHOWS_TOOLS)
    assert (shows_tools(plain), shows_tools(hermes)) == (False, True)
    probe = probes("tools", 1)[0]
    said = in_words(probe.prompt, probe.tools)
    assert [message["role"] for message in said] == ["system", "user"]
    assert all(tool["function"]["name"] in said[0]["content"] for tool in probe.tools)
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ring!"}]
    assert in_words(before, probe.tools)[0]["content"].startswith("Be brief.\n\nYou can use")
    model = build_model(max_position_embeddings=2048)
    examine(model, plain, [probe], progress=False)
    assert "they stand in a system text" in capsys.readouterr().out
    examine(model, hermes, [probe], progress=False)
    assert "system text" not in capsys.readouterr().out


def test_intervals_are_exact():
    # the tables of Clopper and Pearson: 8 of 10, and nothing of 30 is below one in nine
    share = exact_share(8, 10)
    assert (round(share.low, 4), round(share.high, 4)) == (0.4439, 0.9748)
    assert (exact_share(0, 30).low, round(exact_share(0, 30).high, 3)) == (0.0, 0.116)
    assert (exact_share(30, 30).high, exact_share(0, 0).high) == (1.0, 1.0)
