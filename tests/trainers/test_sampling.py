"""Drawing from the student: the right distribution, and numbers of each row's own."""

import pytest
import torch
from conftest import build_model
from torch.nn.functional import one_hot

from distill.models.generating import up_to_end
from distill.teachers import Sampling
from distill.trainers.rollouts import Ask, chosen, prompt_of_row
from distill.trainers.sampling import drawn, sample


@pytest.mark.parametrize("vocabulary", [3, 256, 700])
def test_numbers_spread_evenly_draw_every_token_as_often_as_it_is_likely(vocabulary):
    """The inverse of the distribution function: over a fine grid of numbers the frequencies are the probabilities."""
    torch.manual_seed(0)
    logits = torch.randn(vocabulary) * 3
    logits[1] = -torch.inf
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    found = torch.cat([drawn(logits.expand(len(part), -1), part) for part in grid.split(2000)])
    share = torch.bincount(found, minlength=vocabulary) / len(grid)
    assert (share - logits.softmax(-1)).abs().max() < 2e-5
    assert share[1] == 0


def test_a_token_without_probability_is_never_drawn_not_even_at_the_ends():
    logits = torch.full((4, 600), -torch.inf)
    logits[:, 300] = 0.0
    numbers = torch.tensor([0.0, 1e-300, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert drawn(logits, numbers).tolist() == [300] * 4


def test_an_unlikely_token_has_its_place():
    """In float32 the sum would not see it."""
    logits = torch.zeros(2, 2)
    logits[:, 1] = -23.0
    p = logits[0].softmax(-1)[1].double()
    assert drawn(logits, torch.stack([1 - 2 * p, 1 - p / 2])).tolist() == [0, 1]


SEEDS = [(3, step, row) for step in range(2) for row in range(3)]
ASKS = [Ask([5 + i, 6, 7][: 1 + i % 3], seed) for i, seed in enumerate(SEEDS)]


def test_a_row_writes_the_same_alone_and_in_any_company():
    student = build_model(seed=7)
    sampling = Sampling(max_new_tokens=12)
    together = sample(student, ASKS, sampling, {2})
    alone = [sample(student, [ask], sampling, {2})[0] for ask in ASKS]
    assert [list(a.completion_ids) for a in together] == [list(a.completion_ids) for a in alone]
    assert len({tuple(a.completion_ids) for a in together}) == len(ASKS)


def test_torchs_random_state_is_not_touched_and_the_students_mode_stays():
    student = build_model(seed=7, attention_dropout=0.5).train()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = sample(student, ASKS, Sampling(max_new_tokens=6), {2})
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(12)
    assert sample(student, ASKS, Sampling(max_new_tokens=6), {2}) == first
    assert student.training
    assert student.generation_config.max_new_tokens is None


def test_the_first_token_is_drawn_from_the_students_distribution():
    """4,000 rows of one prompt: chi-square against the probabilities; and so with temperature, top-k and top-p."""
    student, prompt, count = build_model(seed=7), [5, 6, 7], 4000
    asks = [Ask(prompt, (0, 0, row)) for row in range(count)]
    with torch.no_grad():
        logits = student(input_ids=torch.tensor([prompt])).logits[0, -1].float()
    for sampling, wanted in (
        (Sampling(1), logits.softmax(-1)),
        (Sampling(1, temperature=0.5), (logits / 0.5).softmax(-1)),
        (Sampling(1, top_k=5), logits.masked_fill(logits < logits.topk(5).values[-1], -torch.inf).softmax(-1)),
    ):
        answers = sample(student, asks, sampling, {2})
        seen = one_hot(torch.tensor([a.completion_ids[0] for a in answers]), 320).sum(0)
        known = wanted * count > 5
        chi = ((seen - wanted * count) ** 2 / (wanted * count))[known].sum()
        assert chi < known.sum() + 5 * (2 * known.sum()) ** 0.5
        assert not seen[wanted == 0].any()
    nucleus = sample(student, asks[:500], Sampling(1, top_p=0.3), {2})
    order = logits.softmax(-1).sort(descending=True)
    allowed = order.indices[: int((order.values.cumsum(0) < 0.3).sum()) + 1].tolist()
    assert {a.completion_ids[0] for a in nucleus} <= {*allowed}


def test_temperature_0_takes_the_likeliest_and_ids_beyond_the_vocabulary_are_not_drawn():
    student = build_model(seed=7)
    with torch.no_grad():
        likeliest = int(student(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    assert sample(student, [Ask([5, 6], (0, 0, 0))], Sampling(1, temperature=0), set())[0].completion_ids == [likeliest]
    few = sample(student, [Ask([5, 6], (0, 0, row)) for row in range(50)], Sampling(4), {2}, 20)
    assert max(token for answer in few for token in answer.completion_ids) < 20


def test_a_completion_ends_with_what_ended_it_or_was_cut():
    assert up_to_end([5, 2, 2, 2], {2}) == ([5, 2], True)
    assert up_to_end([5, 6], {2}) == ([5, 6], False)
    student = build_model(seed=7)
    with torch.no_grad():
        student.lm_head.weight[2] *= 3
    answers = sample(student, [Ask([5, 6], (1, 0, row)) for row in range(60)], Sampling(8), {2, 9})
    for answer in answers:
        ids = list(answer.completion_ids)
        assert not {2, 9} & {*ids[:-1]}
        assert ids[-1] in (2, 9) or len(ids) == 8
    assert {len(answer.completion_ids) for answer in answers} > {8}


def test_every_row_is_replaced_equally_often_and_their_number_is_right_to_one():
    counts = torch.zeros(7)
    for step in range(3000):
        taken = chosen(3, step, range(7), 0.3)
        assert taken.count(True) in (2, 3)
        counts += torch.tensor(taken)
    assert (counts / 3000 - 0.3).abs().max() < 0.04
    assert chosen(3, 0, range(4), 1.0) == [True] * 4
    assert chosen(3, 0, range(4), 0.0) == [False] * 4


def test_a_row_is_replaced_whoever_has_it():
    whole = chosen(3, 5, range(12), 0.4)
    assert chosen(3, 5, range(4, 8), 0.4) == whole[4:8]


def test_all_prompts_come_once_before_any_comes_again():
    seen = [prompt_of_row(3, number, 5) for number in range(15)]
    assert [sorted(seen[i : i + 5]) for i in (0, 5, 10)] == [list(range(5))] * 3
    assert seen[:5] != seen[5:10]
