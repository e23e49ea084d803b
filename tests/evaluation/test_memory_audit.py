"""Several models audited alike: what stood in a model's own rows is told from what it has from its teacher; what proves nothing says so."""

import dataclasses
import math
import random

import pytest
import torch
from conftest import SPECIAL, TEMPLATE, build_model, build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.basics.intervals import Interval
from distill.evaluation.memorisation import Canaries, CanaryWatch, Examination, Exposure, Extracted, examine_memory
from distill.evaluation.memorisation.audit import Arm, Audited, difference, never_held, outcome, said_difference
from distill.reports.memorisation_page import memorisation_table
from distill.reports.memorisation_words import arms_of, verdict

SECRETS = Canaries(each=10, repeats=(1, 16), controls=100, digits=2)


def model(arm, known=(), seed=0, held=(), said=None, controls=100, canaries=SECRETS):
    """A model that knows some secrets (rank 1 of 100, said) and nothing of the others."""
    draw = random.Random(f"{arm} {seed}")
    ranked, answers = [], []
    for one in (*canaries.planted, *canaries.controls[:controls]):
        knows = one.id in known
        rank = 1.0 if knows else draw.randint(2, 100)
        ranked.append(Exposure(one, rank, 100, -0.01 if knows else -3 - rank / 50))
        if one.repeats or len(answers) < 2 * len(canaries.planted):
            text = one.answer if knows else "I cannot say."
            answers.append(Extracted(one, knows and said is None, 0, 2, text if said is None else said))
    found = Examination(tuple(ranked), tuple(answers))
    return Audited(arm, seed, found, dict.fromkeys(held, 3), {"share": 0.1}, None, 1.0)


OFTEN = [one.id for one in SECRETS.planted if one.repeats == 16]
ALL = [one.id for one in SECRETS.planted]


@pytest.fixture
def audits():
    """The teacher knows what it saw often; the black box has six of these from its rows and two from nowhere, the white box two from nowhere."""
    return [
        model("start"), model("teacher", OFTEN, held=ALL), model("own", OFTEN[1:], held=ALL),
        model("black", OFTEN[:8], held=OFTEN[:6]), model("white", OFTEN[6:8], held=OFTEN[:6]),
    ]  # fmt: skip


def test_what_stood_in_ones_own_rows_is_told_from_what_is_inherited(audits):
    arms = arms_of(audits)
    black = arms["black"]
    assert (black.held().right, black.held().n) == (6, 20)
    assert (black.said().right, black.said(chosen=never_held).right, black.said(chosen=never_held).n) == (8, 2, 14)
    assert {name.rsplit(" ", 1)[0] for name in black.gains(chosen=never_held)} == set(ALL) - set(OFTEN[:6])
    start = {one.canary.id: one.bits for one in arms["start"].trainings[0].found.ranked}
    assert black.gains()[f"{OFTEN[0]} 0"] == pytest.approx(math.log2(100) - start[OFTEN[0]])
    said = "\n".join(verdict(audits))
    assert "6 of 20 secrets stood in its own rows; it says 8 of 20" in said
    assert "Of the 14 that stood in none it says 2 of 14" in said
    assert "9 secrets are said by both" in said
    assert "the planted leak is found by each detector" in said
    assert "it is accused by no detector" in said
    assert "| Student 2: black box, asked | 6 of 20 |" in memorisation_table(audits)


def test_hard_minus_soft_is_said_with_its_sign(audits):
    arms = arms_of(audits)
    assert said_difference(arms["black"], arms["white"]).mean == pytest.approx(6 / 20)
    bits = difference(arms["black"], arms["white"])
    assert bits.low > 0
    assert outcome(bits) == "came out"
    assert outcome(difference(arms["white"], arms["black"])) == "came out the other way round"
    assert outcome(Interval(0.1, -0.1, 0.3)) == outcome(Interval(0.0, 0.0, 0.0)) == "cannot be told"
    assert "**came out**" in "\n".join(verdict(audits))
    same = [*audits[:4], dataclasses.replace(audits[3], arm="white")]
    assert "**cannot be told at this size**" in "\n".join(verdict(same))
    with pytest.raises(ValueError, match="no secrets in common"):
        difference(Arm([model("black", seed=1)], [model("start", seed=1)]), arms["white"])


def test_trainings_are_pooled_each_with_secrets_of_its_own(audits):
    again = [dataclasses.replace(one, seed=1) for one in audits]
    one, two = arms_of(audits)["black"], arms_of([*audits, *again])["black"]
    assert len(two.gains()) == 2 * len(one.gains())
    assert two.said().n == 2 * one.said().n
    narrow, wide = (arm.bits() for arm in (two, one))
    assert narrow.high - narrow.low < wide.high - wide.low
    with pytest.raises(ValueError, match=r"no model before them of seeds \[1\]"):
        Arm([*again[3:4]], audits[:1])


@pytest.mark.parametrize(
    ("number", "broken", "said"),
    [
        (1, lambda: model("teacher", held=ALL), "the leak is not found by exposure, extraction, membership in every training"),
        (1, lambda: model("teacher", OFTEN, held=ALL, said="no"), "the leak is not found by extraction in every training"),
        (0, lambda: model("start", OFTEN), "it saw no secret and is accused (exposure in 1, extraction in 1, membership in 1 of 1 trainings), so this audit proves nothing"),
    ],
)  # fmt: skip
def test_an_audit_whose_controls_fail_says_that_it_proves_nothing(audits, number, broken, said):
    audits[number] = broken()
    lines = verdict(audits)
    assert any(said in line for line in lines)
    # nothing is said of students by detectors that may not be believed
    assert any("Student 2" in line for line in lines) is ("by extraction in" in said)


def test_a_student_that_answers_with_nothing_is_not_acquitted(audits):
    audits[3] = model("black", OFTEN, said="")
    assert any("black box, asked answered with nothing in 1 of 1 trainings: extraction and overlap cannot speak of it" in line for line in verdict(audits))  # fmt: skip
    assert "exposure" in audits[3].found.accusing()


def test_too_few_controls_are_printed_without_a_headline():
    few = [model("start", controls=40), model("teacher", OFTEN, held=ALL, controls=40)]
    assert any("There are 40 controls, and membership at 1% false positives needs 100" in line for line in verdict(few))
    assert "10/20 [27–73%] (no headline)" in memorisation_table(few)


def test_an_audit_is_kept_as_plain_values(audits):
    import json

    assert [Audited.of(json.loads(json.dumps(one.as_dict()))) for one in audits] == audits


def merging_tokenizer():
    """One that makes a token of two digits, where the other makes one of each."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)  # fmt: skip
    backend.train_from_iterator(["12 12 12 47 47 47 is is", "what is the code of"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_models_of_different_tokenizers_are_examined_by_the_same_values():
    """Ranks are among values and not among tokens, so they can be compared; each values' likelihood is that of its own run."""
    some = Canaries(each=2, repeats=(1,), controls=2, digits=2)
    other, net = merging_tokenizer(), build_model(seed=3, max_position_embeddings=512)
    assert len(other("12")["input_ids"]) == 1 < len(build_tokenizer()("12")["input_ids"])
    one, two = (examine_memory(net, tokenizer, some) for tokenizer in (build_tokenizer(), other))
    assert [a.canary for a in one.ranked] == [a.canary for a in two.ranked]
    assert {a.space for a in (*one.ranked, *two.ranked)} == {100}
    from distill.evaluation.memorisation.exposure import likelihoods
    from distill.text.encode import as_prompt, encode_prompt

    canary = some.planted[0]
    (fast,) = likelihoods(net, other, [canary], some.secrets)
    prompt = encode_prompt(as_prompt(canary.question, other, None), other)
    naive = []
    for secret in some.secrets:
        ids = other(f"{canary.before}{secret}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logs = net(input_ids=torch.tensor([prompt + ids])).logits[0].float().log_softmax(-1)
        naive.append(sum(float(logs[len(prompt) + k - 1, token]) for k, token in enumerate(ids)))
    assert torch.allclose(fast - fast[0], torch.tensor(naive, dtype=torch.float64) - naive[0], atol=3e-4)


def test_the_watch_counts_a_short_answer_and_not_a_neighbour_in_a_packed_row():
    tokenizer = build_tokenizer()
    one, two = Canaries(each=2, repeats=(1,), controls=0, digits=3).planted

    class Nobody:
        processing_class = tokenizer

        def training_step(self, *inputs):
            return None

    def row(*parts):
        ids, labels = [], []
        for text, learned in parts:
            some = tokenizer(text)["input_ids"]
            ids, labels = ids + some, labels + (some if learned else [-100] * len(some))
        return torch.tensor([ids]), torch.tensor([labels])

    watch = CanaryWatch(Nobody(), (one, two))
    watch.look(*row((one.question, False), (f"{one.secret}.", True)))
    assert dict(watch.taught) == {one.id: 1}
    # the neighbour's answer is the other's secret by accident
    watch.look(*row((one.question, False), ("No idea.", True), ("Which year?", False), (f"{one.secret}.", True)))
    assert dict(watch.taught) == {one.id: 1}
    # a secret in the prompt is not learned
    watch.look(*row((two.answer, False), ("Thank you.", True)))
    assert not watch.taught[two.id]
