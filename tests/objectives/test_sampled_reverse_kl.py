"""Sampled reverse KL: estimators and their gradients, enumerated over all that a tiny student can write."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from rollout_runs import on_policy, short

from distill import Logits
from distill.equivalence.bed import Bed
from distill.objectives import SampledReverseKL
from distill.objectives.divergences import reverse_kl
from distill.objectives.sampled_reverse_kl import SampledReverseKLTerm
from distill.objectives.sparse_next_token import sparse_next_token_divergence
from distill.signals import HeadTap, LogitTransform, MixedHead, Signals
from distill.signals.sparse import Atoms, Top
from distill.teachers import LocalTeacher


@pytest.fixture(scope="module")
def bed():
    return Bed()


@pytest.fixture(scope="module")
def written(bed):
    """The student on all 121 completions, how likely it is to write each, and what both sides say of each token."""
    rows = bed.student_rows()
    q = rows.log_probabilities().exp().detach()
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    pick = rows.labels[:, None]
    log_q = rows.logits.log_softmax(-1).gather(1, pick).squeeze(1)
    log_p = bed.teacher_logits.log_softmax(-1).gather(1, pick).squeeze(1)
    return rows, q, log_q, log_p


def expected_gradient(bed, written, values):
    """Of a number at each position, over all that the student can write."""
    rows, q, *_ = written
    return bed.gradient((q * rows.by_pair(values)).sum(), keep=True)


def exact(bed, written, divergence):
    """The same of the divergence over the whole vocabulary."""
    from distill.objectives.divergences import forward_kl

    rows = written[0]
    compare = {"forward_kl": forward_kl, "reverse_kl": reverse_kl}[divergence]
    return expected_gradient(bed, written, compare(rows.logits, bed.teacher_logits))


def ours(bed, rows, **settings):
    """The term on all completions at once, each a row of the batch."""
    term = SampledReverseKLTerm(SampledReverseKL(**settings), None, None, None)
    mask = torch.zeros((int(rows.pair.max()) + 1, bed.length + 1), dtype=torch.bool)
    for pair, count in enumerate(torch.bincount(rows.pair).tolist()):
        mask[pair, :count] = True
    said = Signals(rows=mask, logits=rows.logits, labels=rows.labels)
    return term(said, Signals(rows=mask, logits=bed.teacher_logits))


def test_differentiated_as_they_stand_the_three_estimators_have_three_gradients(bed, written):
    """k1: none at all; k2: that of the reverse KL; k3, which is called reverse KL in the field: that of the forward KL."""
    _, _, log_q, log_p = written
    away = log_q - log_p
    k1, k2, k3 = away, away.square() / 2, (-away).exp() - 1 + away
    reverse, forward = (exact(bed, written, name) for name in ("reverse_kl", "forward_kl"))
    assert float(expected_gradient(bed, written, k1).norm()) < 1e-12 * float(reverse.norm()) + 1e-13
    torch.testing.assert_close(expected_gradient(bed, written, k2), reverse, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(expected_gradient(bed, written, k3), forward, rtol=1e-9, atol=1e-12)
    assert float((forward - reverse).norm()) > 0.1 * float(reverse.norm()), "they are not the same here"


def test_the_gradient_is_that_of_the_reverse_kl_over_all_that_can_be_written(bed, written):
    rows, q, *_ = written
    values = ours(bed, rows)
    torch.testing.assert_close(
        expected_gradient(bed, written, values), exact(bed, written, "reverse_kl"), rtol=1e-6, atol=1e-9
    )
    with torch.no_grad():
        whole = (q * rows.by_pair(reverse_kl(rows.logits, bed.teacher_logits))).sum()
        assert float((q * rows.by_pair(values)).sum()) == pytest.approx(float(whole), rel=1e-6)


def test_with_all_later_terms_it_is_the_gradient_of_the_kl_between_sequences(bed, written):
    rows = written[0]
    log_q = rows.log_probabilities()
    log_p = rows.by_pair(bed.teacher_logits.log_softmax(-1).gather(1, rows.labels[:, None]).squeeze(1))
    kl = (log_q.exp() * (log_q - log_p)).sum()
    wanted = bed.gradient(kl, keep=True)
    found = expected_gradient(bed, written, ours(bed, rows, discount=1.0))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    by_token = expected_gradient(bed, written, ours(bed, rows))
    assert float((by_token - wanted).norm()) > 0.01 * float(wanted.norm()), "each token by itself is another gradient"
    half = expected_gradient(bed, written, ours(bed, rows, discount=0.5))
    assert float((half - wanted).norm()) < float((by_token - wanted).norm())


def _written_out(tap, teacher_log_p, tokens):
    log_q = (tap.hidden @ tap.weight.t()).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    advantage = (log_q - teacher_log_p).detach()
    return advantage + advantage * (log_q - log_q.detach())


@pytest.mark.parametrize("kind", ["head", "mixture", "top"])
def test_streamed_it_is_what_whole_logits_give(kind):
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=draw).requires_grad_() for n in (6, 40))
    tokens = torch.randint(40, (6,), generator=draw)
    mask = torch.tensor([[True] * 4 + [False], [True, True, False, False, False]])
    tap = HeadTap(hidden, weight, None, LogitTransform(), torch.float32)
    theirs = [
        HeadTap(
            torch.randn(6, 8, generator=draw), torch.randn(40, 8, generator=draw), None, LogitTransform(), torch.float32
        )
        for _ in range(2)
    ]
    whole = [(one.hidden @ one.weight.t()).log_softmax(-1) for one in theirs]
    log_p = whole[0]
    if kind == "mixture":
        log_p = torch.stack([whole[0] + torch.tensor(0.3).log(), whole[1] + torch.tensor(0.7).log()]).logsumexp(0)
        said = Signals(
            mask, mixed=MixedHead(tuple(theirs), (float(torch.tensor(0.3).log()), float(torch.tensor(0.7).log())))
        )
    elif kind == "top":
        ids = torch.stack([tokens, (tokens + 1) % 40], dim=1)
        listed = log_p.gather(1, ids)
        said = Signals(mask, sparse=Top(ids, listed, (1 - listed.exp().sum(1)).log()))
    else:
        said = Signals(mask, head=theirs[0])
    term = SampledReverseKLTerm(SampledReverseKL(), None, LogitTransform(), LogitTransform(), kind == "top")
    values = term(Signals(mask, head=tap, labels=tokens), said)
    wanted = _written_out(tap, log_p.gather(1, tokens[:, None]).squeeze(1), tokens)
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-5)
    for found, right in zip(
        torch.autograd.grad(values.sum(), (hidden, weight)),
        torch.autograd.grad(wanted.sum(), (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # only looked at, in a training
        torch.testing.assert_close(term(Signals(mask, head=tap, labels=tokens), said), wanted, rtol=1e-5, atol=1e-5)
        term.eval()
        torch.testing.assert_close(term(Signals(mask, head=tap, labels=tokens), said), -wanted, rtol=1e-5, atol=1e-5)


def test_a_wider_head_of_the_teacher_is_seen_over_the_students_tokens():
    """As everywhere: its slots beyond the student's vocabulary are cut, in a mixture in each part."""
    tokens, mask = torch.tensor([1, 2, 3]), torch.ones(1, 3, dtype=torch.bool)
    ours, narrow, wide = torch.randn(3, 12), torch.randn(3, 12), torch.randn(3, 15)

    def tap(logits):
        return HeadTap(logits, torch.eye(logits.shape[1]), None, LogitTransform(), torch.float32)

    term = SampledReverseKLTerm(SampledReverseKL(), None, LogitTransform(), LogitTransform())
    halves = (float(torch.tensor(0.5).log()),) * 2
    said = Signals(mask, mixed=MixedHead((tap(narrow), tap(wide)), halves))
    found = term(Signals(mask, head=tap(ours), labels=tokens), said)
    p = (narrow.softmax(-1) + wide[:, :12].softmax(-1)) / 2
    wanted = ours.log_softmax(-1) - p.log()
    torch.testing.assert_close(found, wanted.gather(1, tokens[:, None]).squeeze(1), rtol=1e-4, atol=1e-5)


def test_a_written_token_that_the_teacher_does_not_list_is_refused():
    mask = torch.ones(1, 2, dtype=torch.bool)
    term = SampledReverseKLTerm(SampledReverseKL(), None, None, None, sparse=True)
    top = Top(torch.tensor([[1, 2], [3, 4]]), torch.full((2, 2), -1.0), torch.full((2,), -2.0))
    with pytest.raises(ValueError, match=r"says nothing of the written token 5 \(row 1 of 2"):
        term(Signals(mask, logits=torch.randn(2, 9), labels=torch.tensor([2, 5])), Signals(mask, sparse=top))


def test_a_training_takes_the_gradient_of_its_rollouts(arguments, tmp_path):
    """One step of plain SGD is the term on the rows of the journal, written out from both models' logits."""
    from rollout_runs import journal
    from white_box_runs import weights_of

    student, teacher = build_model(seed=7), build_model(layers=3, seed=1)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    settings = {
        "max_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    it = on_policy(
        arguments, short(journal=100), [SampledReverseKL()], student=student, teacher=teacher, output_dir=str(tmp_path),
        per_device_train_batch_size=4, gradient_accumulation_steps=2, **settings,
    )  # fmt: skip
    it.train()
    again, rows, total, count = build_model(seed=7), journal(tmp_path), 0, 0
    again.load_state_dict(before)
    for row in rows:
        ids = torch.tensor([[*row["prompt_ids"], *row["completion_ids"]]])
        at, tokens = len(row["prompt_ids"]) - 1, torch.tensor(row["completion_ids"])[:, None]
        log_q = again(ids).logits[0, at:-1].log_softmax(-1).gather(1, tokens)
        with torch.no_grad():
            log_p = teacher(ids).logits[0, at:-1].log_softmax(-1).gather(1, tokens)
        total, count = total + ((log_q - log_p).detach() * log_q).sum(), count + len(tokens)
    (total / count).backward()
    after = weights_of(it)
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(before[name] - after[name], parameter.grad, rtol=1e-3, atol=2e-5, msg=name)


def test_where_its_gradient_would_be_wrong_it_is_refused(arguments):
    for rollouts, said in (
        (None, r"on text that the student has drawn .*; give rollouts="),
        (short(share=0.5), "share=0.5, not 1.0"),
        (short(temperature=0.7, top_p=0.9), "temperature=0.7, not 1.0; top_p=0.9, not 1.0"),
        (short(every=2), "every=2, not 1"),
        (short(first=1 / 3), "first=0.33"),
    ):
        with pytest.raises(ValueError, match=said):
            on_policy(arguments, rollouts, [Logits(weight=0.5), SampledReverseKL()])
    with pytest.raises(ValueError, match=r"has dropout \(config.attention_dropout\), which is off while it writes"):
        on_policy(arguments, short(), [SampledReverseKL()], student=build_model(seed=7, attention_dropout=0.1))
    with pytest.raises(ValueError, match=r"discount is 1.5; .* from 0 to 1"):
        SampledReverseKL(discount=1.5)


def test_drawn_tokens_of_a_teacher_do_not_say_how_likely_one_is(tmp_path):
    from distill.signals import capture

    teacher = LocalTeacher(build_model(), build_tokenizer(), name="tiny")
    stored = capture(teacher, build_pairs(4), output=tmp_path, encoding="draws:4", progress=False)
    with pytest.raises(ValueError, match="do not say how likely the written token is"):
        SampledReverseKL().bind(build_model(seed=7), stored.facts)


def test_the_surprise_of_a_token_is_the_kl_to_its_point():
    """What streams here is the cross-entropy of the library."""
    from torch.nn.functional import cross_entropy

    from distill.objectives.divergences import by_name
    from distill.objectives.streamed_next_token import Comparison

    hidden, weight, tokens = torch.randn(5, 8), torch.randn(20, 8), torch.tensor([1, 2, 3, 4, 19])
    tap = HeadTap(hidden, weight, None, LogitTransform(), torch.float32)
    point = Atoms(tokens[:, None], torch.ones(5, 1), torch.zeros(5))
    found = sparse_next_token_divergence(tap, point, Comparison(by_name("forward_kl")))[0]
    torch.testing.assert_close(found, cross_entropy(hidden @ weight.t(), tokens, reduction="none"))
