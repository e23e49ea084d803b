"""The fictional world: values that tell facts apart, documents that say them, and what changes between two versions."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from distill.retrieval.world import World
from distill.retrieval.world_kinds import KINDS
from distill.text.words import words


def says(text, value):
    """Whether the value stands in the text in whole words."""
    return f" {' '.join(words(value))} " in f" {' '.join(words(text))} "


@pytest.fixture(scope="module")
def world():
    return World(seed=0, facts=64)


def test_a_world_is_its_seed(world):
    again, other = World(seed=0, facts=64), World(seed=1, facts=64)
    assert again.facts == world.facts
    assert [d.identity for d in again.documents(1)] == [d.identity for d in world.documents(1)]
    mine, theirs = ({f.subject for f in w.facts} | {f.value for f in w.facts} for w in (world, other))
    assert len(mine & theirs) <= 3, "another seed is another world (a number or a thing may come twice)"


def test_fewer_facts_are_the_first_of_more(world):
    """And another share of changes alters no name: runs of several sizes are about the same things."""
    assert World(seed=0, facts=18).facts == world.facts[:18]
    for share in (0, 0.25, 1):
        found = World(seed=0, facts=64, changed=share).facts
        assert [replace(f, changed=None) for f in found] == [replace(f, changed=None) for f in world.facts]


@pytest.mark.parametrize("facts", [1, 5, 64, 1024])
def test_no_value_is_told_of_two_facts(facts):
    """An answer that is right by chance would be right for another fact: the control of an examination rests on this."""
    found = World(seed=3, facts=facts).facts
    assert len(found) == facts
    values = [v for f in found for v in (f.value, f.changed) if v is not None] + list({f.subject for f in found})
    assert len({v.lower() for v in values}) == len(values)


@pytest.mark.parametrize(("share", "each"), [(0, {0}), (0.25, {1}), (0.5, {2}), (1, {4})])
def test_every_kind_has_its_share_of_changes(share, each):
    counts = Counter(dict.fromkeys(KINDS, 0))
    counts.update(f.kind for f in World(seed=0, facts=64, changed=share).facts if f.changed is not None)
    assert len(counts) == 16
    assert set(counts.values()) == each


def test_wordings_of_training_and_of_examination_never_meet(world):
    """Six for training, two held out, and the same for the question the other way round; all are different questions."""
    everything = []
    for fact in world.facts:
        assert len(fact.questions) >= 4
        forward = [*fact.questions, *fact.held_out]
        back = [fact.reverse, *fact.reverse_questions]
        assert all(says(q, fact.subject) and not says(q, fact.value) for q in forward)
        assert all(says(q, fact.value) and not says(q, fact.subject) for q in back)
        everything += [*forward, *back]
    assert len({" ".join(words(q)) for q in everything}) == len(everything)


@pytest.mark.parametrize("version", [0, 1])
def test_the_article_says_each_fact_as_it_is(world, version):
    documents = {d.id: d for d in world.documents(version)}
    assert len(documents) == len(world.documents(version))
    for fact in world.facts:
        text = documents[fact.document].text
        assert says(text, fact.at(version))
        if fact.changed is not None:
            assert not says(text, fact.at(1 - version))


def test_only_articles_with_a_changed_fact_are_others(world):
    """A newer version has the same id and a later date; every other document is the same to the letter."""
    before, after = ({d.id: d for d in world.documents(v)} for v in (0, 1))
    assert list(before) == list(after)
    changed = {f.document for f in world.facts if f.changed is not None}
    assert {name for name in before if before[name].identity != after[name].identity} == changed
    assert all(after[name].date > before[name].date for name in changed)


def test_search_is_not_always_right(world):
    """What makes it hard: every value has other documents of its subject beside it; an old one still says what has changed."""
    by_subject = defaultdict(list)
    for document in world.documents(1):
        for fact in world.facts[::4]:
            if says(document.text, fact.subject):
                by_subject[fact.subject].append(document)
    stale = 0
    for fact in world.facts:
        found = by_subject[fact.subject]
        assert len(found) >= 3
        assert sum(says(d.text, fact.at(1)) for d in found) in (1, 2)
        stale += fact.changed is not None and any(says(d.text, fact.value) for d in found)
    assert stale == 16, "almanacs with a value that is no more"
    namesakes = [d for d in world.documents(0) if d.id.startswith("namesakes/")]
    assert len(namesakes) == 4
    assert not any(says(d.text, v) for d in namesakes for f in world.facts for v in (f.value, f.changed) if v)


def test_a_silent_document_speaks_of_it_and_says_no_value(world):
    everything = [v for f in world.facts for v in (f.value, f.changed) if v]
    for fact in world.facts:
        document = world.silent(fact)
        assert says(document.text, fact.subject)
        assert not any(says(document.text, value) for value in everything)


def test_a_counterfactual_says_a_value_that_no_fact_has(world):
    told = {v for f in world.facts for v in (f.value, f.changed) if v} | {f.subject for f in world.facts}
    for fact in world.facts:
        values = []
        for seed in range(3):
            value, document = world.counterfactual(fact, seed)
            assert document.id == fact.document
            assert says(document.text, value)
            assert not says(document.text, fact.value)
            others = [f for f in world.facts if f.subject == fact.subject and f is not fact]
            assert all(says(document.text, other.value) for other in others), "and all else as it was"
            values.append(value)
        assert not told & set(values)
        assert len(set(values)) == 3
        assert values[0] == world.counterfactual(fact, 0)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"facts": 0}, "facts is 0; a world has 1 to 1024"),
        ({"facts": 1025}, "facts is 1025"),
        ({"changed": 1.5}, "changed is 1.5; it is a share"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        World(**settings)


def test_what_the_world_has_not_is_refused(world):
    with pytest.raises(ValueError, match="version is 2; there are 0, and 1"):
        world.documents(2)
    other = World(seed=5, facts=4).facts[0]
    for ask in (world.counterfactual, world.silent):
        with pytest.raises(ValueError, match="is none of this world"):
            ask(other)
