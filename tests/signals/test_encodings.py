"""Encodings: what is written is read, what is drawn has the laws it should have, and nothing depends on the batch."""

import hashlib

import numpy as np
import pytest
import torch

from distill.signals import HeadTap, LogitTransform, sparse
from distill.signals.encodings import ENCODINGS, base, drawing, encoding_of
from distill.signals.encodings.drawing import in_blocks, inverted, largest, uniforms
from distill.signals.encodings.sorted_ids import SortedIds
from distill.signals.encodings.threshold import chosen

NAMES = ("hidden", "hidden:8", "threshold:7", "draws:9", "top:5")


def head(rows=40, width=16, vocabulary=1000, seed=0, dtype=torch.float32, spread=3.0, transform=LogitTransform()):  # noqa: B008
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * spread / width**0.5
    return HeadTap(hidden.to(dtype), weight.to(dtype), None, transform, dtype)


def some(tap, rows):
    return HeadTap(tap.hidden[rows].contiguous(), tap.weight, tap.bias, tap.transform, tap.dtype)


def log_p_of(tap, temperature=1.0):
    logits = tap.hidden.double() @ tap.weight.double().t()
    return (tap.transform(logits) / temperature).log_softmax(-1)


def keys(count):
    return [hashlib.sha256(bytes([number])).digest()[:16] for number in range(count)]


def labels_of(tap, seed=0):
    return torch.randint(len(tap.weight), (len(tap.hidden),), generator=torch.Generator().manual_seed(seed))


def there_and_back(encoding, tap, counts=None, wanted=None, labels=None):
    counts = counts or [len(tap.hidden)]
    labels = labels_of(tap) if labels is None else labels
    encoding = encoding.of_tap(tap)
    blobs = encoding.encode(tap, counts, labels, keys(len(counts)))
    return encoding.decode(blobs, counts, wanted or counts)


def dense(atoms, vocabulary):
    """`[N, V]` of weighted tokens."""
    return torch.zeros(len(atoms.ids), vocabulary).scatter_add_(1, atoms.ids, atoms.weights)


# hidden


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_hidden_states_come_back_bit_by_bit(dtype):
    tap = head(dtype=dtype)
    found = there_and_back(encoding_of("hidden"), tap, [3, 0, 30, 7])
    assert found.dtype == dtype
    assert torch.equal(found, tap.hidden)


def test_hidden_states_in_eight_bits_are_within_half_a_step_of_their_row():
    tap = head()
    tap.hidden[3] = 0
    found = there_and_back(encoding_of("hidden:8"), tap)
    step = tap.hidden.abs().amax(1, keepdim=True) / 127
    assert ((found - tap.hidden).abs() <= step / 2 * (1 + 1e-5)).all()
    assert not found[3].any()


# threshold


def peaked(rows=6, vocabulary=300, seed=0, spread=3.0):
    """Probabilities in float64, some of them large."""
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    return logits.softmax(-1)


def weights_at(p, n, start):
    """`[rows, V]` of threshold sampling with that start in every row, or with one of its own in each."""
    drawn = torch.as_tensor(start, dtype=torch.float64).expand(len(p))[:, None].clone()
    ids, kept, cut, few = chosen(p.clone(), n, drawn)
    place = torch.arange(ids.shape[1])
    weights = torch.where(place < kept[:, None], p.gather(1, ids), torch.where(few, 0, cut)[:, None])
    return torch.zeros_like(p).scatter_add_(1, ids, weights), kept, cut


def starts_of(p, n):
    """Where what is drawn changes with the start, computed here once more: borders of the tokens that are not kept, over c, modulo 1."""
    lengths = []
    for row in p:
        mass = row.sort(descending=True).values
        kept = next(k for k in range(n) if mass[k] < mass[k:].sum() / (n - k))
        cut = mass[kept:].sum() / (n - kept)
        lengths.append((torch.where(row < cut, row, 0).cumsum(0) / cut) % 1)
    borders = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), *lengths]).sort().values
    return (borders[1:] + borders[:-1]) / 2, borders.diff()


@pytest.mark.parametrize("n", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
def test_threshold_weights_are_the_probabilities_in_expectation(n, spread):
    """Enumerated: all starts between two borders draw the same, so the expectation is a finite sum."""
    p = peaked(spread=spread)
    middles, lengths = starts_of(p, n)
    mean, long = torch.zeros_like(p), lengths > 1e-13
    for starts, length in zip(middles[long].split(100), lengths[long].split(100), strict=True):
        weights, *_ = weights_at(p.repeat(len(starts), 1), n, starts.repeat_interleave(len(p)))
        mean += (length[:, None, None] * weights.view(-1, *p.shape)).sum(0)
    torch.testing.assert_close(mean, p, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [1, 5, 40, 299])
def test_threshold_weights_sum_to_one_with_every_large_probability_exact_and_no_token_twice(n):
    p = peaked()
    for start in (0.0, 0.3, 1 - 2**-53):
        weights, kept, cut = weights_at(p, n, start)
        torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.minimum(p / cut[:, None], torch.ones(())).sum(1), torch.full((6,), float(n)).double()
        )
        large = p >= cut[:, None] * (1 + 1e-12)
        assert torch.equal(large.sum(1), kept)
        assert torch.equal(weights[large], p[large])
        assert ((weights > 0).sum(1) == n).all()


@pytest.mark.parametrize("n", [4, 5, 1000])
def test_with_as_many_atoms_as_tokens_that_occur_nothing_is_drawn(n):
    """Also where most tokens cannot occur at all, and where only one can."""
    tap = head(rows=3, vocabulary=300)
    bias = torch.full((300,), -torch.inf)
    bias[[3, 77, 130, 299]] = 0
    tap = HeadTap(tap.hidden, tap.weight, bias, tap.transform, tap.dtype)
    found = there_and_back(encoding_of("threshold", n=n), tap, labels=torch.full((3,), 3))
    p = (tap.hidden @ tap.weight.t() + bias).softmax(-1)
    torch.testing.assert_close(dense(found, 300), p, rtol=1e-3, atol=0)
    bias[[77, 130, 299]] = -torch.inf
    found = there_and_back(encoding_of("threshold", n=n), tap, labels=torch.full((3,), 3))
    assert torch.equal(dense(found, 300)[:, 3], torch.ones(3))
    assert not found.negentropy.any()


def test_a_small_vocabulary_is_held_whole():
    tap = head(vocabulary=6)
    found = there_and_back(encoding_of("threshold", n=32), tap)
    torch.testing.assert_close(dense(found, 6).double(), log_p_of(tap).exp(), rtol=1e-3, atol=0)


def test_stored_threshold_weights_are_the_weights_but_for_codes_of_sixteen_bits():
    tap = head()
    found = there_and_back(encoding_of("threshold:7"), tap)
    assert found.ids.shape == (40, 7)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(40), rtol=2e-4, atol=0)
    p = log_p_of(tap).exp()
    drawn = torch.from_numpy(uniforms(keys(1), [40], 1))
    ids, kept, cut, _ = chosen(p.float(), 7, drawn)
    exact = torch.where(torch.arange(7) < kept[:, None], p.gather(1, ids), cut[:, None])
    ids, order = ids.sort(1)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.weights.double(), exact.gather(1, order), rtol=2e-4, atol=0)
    torch.testing.assert_close(found.negentropy.double(), (p * p.log()).sum(1), rtol=0, atol=1e-4)


# draws


def test_the_noise_of_draws_is_that_of_a_multinomial():
    """E |w - p|^2 = (1 - sum p^2) / n: the rate 1 / sqrt(n), with its constant; and no bias."""
    one = head(rows=1, vocabulary=300)
    p = log_p_of(one).exp()
    tap = HeadTap(one.hidden.expand(4000, -1), one.weight, None, one.transform, one.dtype)
    variances = {}
    for n in (1, 4, 16):
        weights = dense(there_and_back(encoding_of("draws", n=n), tap), 300).double()
        torch.testing.assert_close(weights.sum(1), torch.ones(4000, dtype=torch.float64))
        variances[n] = float((weights - p).square().sum(1).mean())
        assert abs(variances[n] / (float(1 - p.square().sum()) / n) - 1) < 0.06
        assert float((weights.mean(0) - p).square().sum()) < 3 * variances[n] / 4000


def test_threshold_has_less_noise_than_as_many_draws():
    one = head(rows=1, vocabulary=300)
    p = log_p_of(one).exp()
    tap = HeadTap(one.hidden.expand(500, -1), one.weight, None, one.transform, one.dtype)
    noise = [
        float((dense(there_and_back(encoding_of(name, n=12), tap), 300) - p).square().sum(1).mean())
        for name in ("threshold", "draws")
    ]
    assert noise[0] < noise[1] / 2


def test_draws_are_those_of_a_cumulative_sum_over_all_tokens():
    p = peaked(rows=50, vocabulary=1000, spread=2.0)
    points = torch.from_numpy(uniforms(keys(1), [50], 30))
    blocks = in_blocks(p)
    found = inverted(blocks, blocks.sum(2), points)
    expected = torch.searchsorted(p.cumsum(1), points, right=True)
    assert (found != expected).sum() <= 1  # a point on a border, to the last bit
    # a point at the very end, and tokens without mass
    p[:, 500:] = 0
    blocks = in_blocks(p)
    assert (inverted(blocks, blocks.sum(2), p.sum(1, keepdim=True)) < 500).all()


def test_thousands_of_draws_look_at_no_more_than_so_many_blocks_at_once(monkeypatch):
    """The same tokens, in several parts."""
    tap = head(rows=20)
    found, most = [], []
    usual = drawing._within_blocks

    def seen(*arguments):
        most.append(arguments[-1].numel() * drawing.BLOCK)
        return usual(*arguments)

    monkeypatch.setattr(drawing, "_within_blocks", seen)
    for limit in (2**30, 2**16):
        monkeypatch.setattr(drawing, "_AT_ONCE", limit)
        most.clear()
        found.append(dense(there_and_back(encoding_of("draws", n=3000), tap), 1000))
        assert max(most) <= limit
    assert len(most) > 100
    assert torch.equal(*found)


def test_random_numbers_are_of_a_stream_that_never_changes():
    """Philox 4x64-10 with the key of a document: stored files are drawn again by another version to the same bytes."""
    found = uniforms([bytes(16), bytes(range(16))], [2, 1], 2)
    assert found.dtype == np.float64
    assert found.ravel().tolist() == KNOWN


KNOWN = [
    0.011546754286331562, 0.24154919656271812, 0.11142585551493822, 0.5644146216071337, 0.7761366048984066, 0.9612052412461628,
]  # fmt: skip


# top


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_holds_the_largest_the_emitted_one_and_the_mass_of_all_others(temperature):
    tap, encoding = head(), encoding_of("top", k=5, temperature=temperature)
    labels = log_p_of(tap).argmin(1)
    labels[:3] = log_p_of(tap).topk(3).indices[:3, 2]
    found = there_and_back(encoding, tap, labels=labels)
    log_p = log_p_of(tap, temperature)
    assert (found.ids == labels[:, None]).any(1).all()
    assert all((found.ids == one[:, None]).any(1).all() for one in log_p.topk(4).indices.T)
    assert torch.equal(found.ids[:3], log_p[:3].topk(5).indices.sort(1).values)
    torch.testing.assert_close(found.log_probs.double(), log_p.gather(1, found.ids), rtol=0, atol=4e-4)
    rest = log_p.scatter(1, found.ids, -torch.inf).logsumexp(1)
    torch.testing.assert_close(found.tail.double(), rest, rtol=1e-5, atol=1e-6)
    assert found.temperature == temperature


@pytest.mark.parametrize("lowest", [-39.0, -41.0, -1e4, -65504.0, -1e20])
def test_one_token_that_is_all_but_impossible_costs_the_others_no_digit(lowest):
    """An emitted token that the teacher would never have said."""
    tap, labels = head(), torch.full((40,), 999)
    tap.weight[999] = 0
    logits = tap.hidden @ tap.weight.t()
    logits[:, 999] = lowest
    logits[5:, 998] = max(lowest, -1e3)  # and one more, where it is drawn into the list
    encoding = encoding_of("top", k=12).of_head(vocabulary=1000, width=16, dtype="float32")
    found = encoding.decode(encoding.encode_logits(logits, [40], labels, keys(1)), [40], [40])
    truth = logits.double().log_softmax(-1).gather(1, found.ids)
    near = truth > -40
    assert (found.log_probs.double() - truth)[near].abs().max() < 5e-4
    assert (found.ids == 999).any(1).all()
    torch.testing.assert_close(found.log_probs.double()[~near], truth[~near], rtol=2e-3, atol=0)


def test_a_low_temperature_leaves_likely_tokens_their_digits():
    tap = head(spread=10.0)
    encoding = encoding_of("top", k=30, temperature=0.05)
    found = there_and_back(encoding, tap)
    truth = log_p_of(tap, 0.05).gather(1, found.ids).double()
    assert truth.min() < -200
    near = truth > -40
    assert (found.log_probs.double() - truth)[near].abs().max() < 5e-4
    torch.testing.assert_close(found.log_probs.double()[~near], truth[~near], rtol=3e-3, atol=0)


def test_a_tail_that_float32_would_call_nothing_is_there():
    """1 - sum of the listed ones is 0 here, or negative."""
    tap = head(rows=4, spread=60.0)
    found = there_and_back(encoding_of("top", k=20), tap)
    rest = log_p_of(tap).scatter(1, found.ids, -torch.inf).logsumexp(1)
    assert (rest < -18).any()
    torch.testing.assert_close(found.tail.double(), rest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [300, 1000])
def test_all_tokens_leave_no_tail(k):
    tap = head(vocabulary=300)
    found = there_and_back(encoding_of("top", k=k), tap)
    assert (found.tail == -torch.inf).all()
    assert torch.equal(found.ids.sort(1).values, torch.arange(300).expand(40, -1))


def test_the_largest_are_those_of_topk():
    for columns, count in ((5000, 32), (1000, 3), (300, 40), (128 * 9, 4), (7, 20)):
        values = torch.randn(9, columns, generator=torch.Generator().manual_seed(columns))
        found, places = largest(values, count)
        expected = values.topk(min(count, columns))
        assert torch.equal(found, expected.values)
        assert torch.equal(places, expected.indices)


def test_sorted_tokens_come_back_whatever_their_number_and_the_vocabulary():
    draw = np.random.default_rng(0)
    for vocabulary in (1, 2, 7, 128, 1000, 49_152, 65_537, 151_936, 2**24):
        for count in (1, 2, 31, 32, 200):
            ids = np.sort(draw.integers(0, vocabulary, (9, count)), axis=1)
            ids[0], ids[1] = 0, vocabulary - 1
            packing = SortedIds(vocabulary, count)
            rows = packing.pack(ids)
            assert rows.shape == (9, packing.bytes)
            assert np.array_equal(packing.unpack(rows), ids)
    assert SortedIds(49_152, 32).bytes == 50
    assert SortedIds(151_936, 32).bytes == 57
    rows[:, -1] ^= 128
    with pytest.raises(ValueError, match="their bytes were changed"):
        packing.unpack(rows)
    with pytest.raises(ValueError, match="can be of 16,777,216 at most"):
        SortedIds(2**24 + 1, 3)


# documents


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("vocabulary", [1000, 70_000])
def test_a_document_has_the_same_bytes_in_any_batch_and_any_order(name, vocabulary):
    """Of the tokenizer's size, with the matrix products of the machine: two kinds of ids, several chunks."""
    tap = head(rows=330, width=48, vocabulary=vocabulary)
    counts = [1, 130, 0, 150, 49]
    encoding, labels, seeds = encoding_of(name).of_tap(tap), labels_of(tap), keys(5)
    together = encoding.encode(tap, counts, labels, seeds)
    ends = np.cumsum(counts)
    for number, (end, count) in enumerate(zip(ends, counts, strict=True)):
        rows = slice(end - count, end)
        alone = encoding.encode(some(tap, rows), [count], labels[rows], seeds[number : number + 1])
        assert np.array_equal(alone[0], together[number])
    order = [3, 0, 4, 2, 1]
    rows = torch.cat([torch.arange(ends[i] - counts[i], ends[i]) for i in order])
    shuffled = encoding.encode(some(tap, rows), [counts[i] for i in order], labels[rows], [seeds[i] for i in order])
    assert all(np.array_equal(blob, together[i]) for blob, i in zip(shuffled, order, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_positions_of_documents_are_read_alone(name):
    """As `max_length` cuts them; in any order, and none at all."""
    tap, encoding = head(), encoding_of(name)
    encoding = encoding.of_tap(tap)
    counts, wanted = [9, 1, 20, 10], [4, 1, 0, 10]
    blobs = encoding.encode(tap, counts, labels_of(tap), keys(4))
    whole, part = encoding.decode(blobs, counts, counts), encoding.decode(blobs, counts, wanted)
    rows = torch.tensor([0, 1, 2, 3, 9, *range(30, 40)])
    if isinstance(whole, torch.Tensor):
        assert torch.equal(part, whole[rows])
    else:
        vocabulary = 1000
        if isinstance(whole, sparse.Atoms):
            assert torch.equal(dense(part, vocabulary), dense(whole, vocabulary)[rows])
            assert torch.equal(part.negentropy, whole.negentropy[rows])
        else:
            assert torch.equal(part.ids, whole.ids[rows])
            assert torch.equal(part.log_probs, whole.log_probs[rows])
            assert torch.equal(part.tail, whole.tail[rows])
    nothing = encoding.decode([], [], [])
    assert len(nothing if isinstance(nothing, torch.Tensor) else nothing.ids) == 0


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_plain_and_give_the_encoding_back(name):
    encoding = encoding_of(name).of_tap(head())
    assert encoding_of(encoding.name, **encoding.settings) == encoding
    assert all(isinstance(value, str | int | float | None) for value in encoding.settings.values())
    assert encoding.name in ENCODINGS
    assert encoding_of(encoding) is encoding


@pytest.mark.parametrize("name", ["threshold:7", "draws:9"])
def test_another_seed_draws_others_and_the_same_one_the_same(name):
    tap = head()
    first, again, other = (there_and_back(encoding_of(name, seed=seed), tap) for seed in (0, 0, 1))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(dense(first, 1000), dense(other, 1000))


@pytest.mark.parametrize("name", ["threshold:7", "draws:9"])
def test_sets_are_independent_draws_and_the_first_is_that_of_one(name):
    tap, counts = head(), [3, 0, 30, 7]
    one = encoding_of(name).of_tap(tap)
    many = encoding_of(name, sets=6).of_tap(tap)
    assert encoding_of(many.name, **many.settings) == many
    assert "sets" not in one.settings
    blobs = many.encode(tap, counts, labels_of(tap), keys(4))
    read = [dense(many.decode(blobs, counts, counts, "cpu", [number] * 4), 1000) for number in range(6)]
    alone = dense(one.decode(one.encode(tap, counts, labels_of(tap), keys(4)), counts, counts), 1000)
    assert torch.equal(read[0], alone)
    assert torch.equal(dense(many.decode(blobs, counts, counts), 1000), alone)
    truth = log_p_of(tap).exp()
    errors = [float((weights - truth).norm()) for weights in read]
    mean = float((sum(read) / 6 - truth).norm())
    assert mean < 0.55 * min(errors), "1 / sqrt(6) is .41; of the same draws it would be 1"
    mixed = dense(many.decode(blobs, counts, counts, "cpu", [5, 1, 2, 4]), 1000)
    assert torch.equal(mixed, torch.cat([read[5][:3], read[2][3:33], read[4][33:]]))
    few = dense(many.decode(blobs, counts, [1, 0, 2, 7], "cpu", [5, 1, 2, 4]), 1000)
    assert torch.equal(few, torch.cat([read[5][:1], read[2][3:5], read[4][33:]]))
    assert abs(many.bytes_per_position() - 6 * one.bytes_per_position()) < 1e-6
    with pytest.raises(ValueError, match="does not hold 6 sets of draws"):
        many.decode([blobs[0][:-1]], [3], [3])


def test_sets_of_what_is_not_drawn_are_refused():
    for settings, message in (
        ({"name": "top", "sets": 2}, "sets of the encoding 'top' is 2; nothing is drawn for it"),
        ({"name": "threshold", "sets": 0}, "sets of the encoding 'threshold' is 0"),
        ({"name": "hidden", "sets": 2}, "has no sets"),
    ):
        with pytest.raises(ValueError, match=message):
            encoding_of(**settings)


@pytest.mark.parametrize("name", ["threshold:7", "draws:9", "top:5"])
def test_a_teachers_own_logits_are_as_good_as_its_head(name):
    """Also with what the model does to them, and another temperature."""
    tap = head(transform=LogitTransform(0.5, 4.0))
    encoding = encoding_of(name, temperature=1.5).of_tap(tap)
    logits = tap.transform(tap.hidden @ tap.weight.t())
    blobs = [
        encoding.encode(tap, [40], labels_of(tap), keys(1)),
        encoding.encode_logits(logits, [40], labels_of(tap), keys(1)),
    ]
    a, b = (encoding.decode(found, [40], [40]) for found in blobs)
    assert torch.equal(a.ids, b.ids)
    assert a.temperature == 1.5
    log_p = log_p_of(tap, 1.5)
    if isinstance(a, sparse.Top):
        torch.testing.assert_close(a.log_probs.double(), log_p.gather(1, a.ids), rtol=0, atol=4e-4)
    else:
        torch.testing.assert_close(a.negentropy.double(), (log_p.exp() * log_p).sum(1), rtol=0, atol=1e-4)


def test_bytes_a_position():
    """Of a vocabulary of 49,152 and of one beyond 65,536."""
    for vocabulary, most in ((49_152, (90, 51, 122)), (151_936, (97, 67, 129))):
        tap = head(rows=64, vocabulary=vocabulary, spread=4.0)
        for name, limit in zip(("threshold:32", "draws:16", "top:32"), most, strict=True):
            encoding = encoding_of(name).of_tap(tap)
            (blob,) = encoding.encode(tap, [64], labels_of(tap), keys(1))
            assert len(blob) / 64 <= limit, (name, len(blob) / 64)
            assert abs(encoding.bytes_per_position() / (len(blob) / 64) - 1) < 0.5
    hidden = encoding_of("hidden").of_tap(head(dtype=torch.bfloat16))
    assert hidden.bytes_per_position() == 32


# what is refused


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("logits", {}, "must be one of hidden, threshold, draws, top"),
        ("threshold", {"k": 3}, "has no k; it has dtype, n, seed"),
        ("threshold:0", {}, "n of the encoding 'threshold' is 0"),
        ("threshold:many", {}, "a whole number"),
        ("threshold:3", {"n": 4}, "once"),
        ("top", {"k": 2.5}, "k of the encoding 'top' is 2.5"),
        ("draws", {"n": True}, "n of the encoding 'draws' is True"),
        ("draws", {"temperature": 0.0}, "temperature of the encoding 'draws' is 0.0"),
        ("draws", {"temperature": float("nan")}, "temperature"),
        ("draws", {"seed": -1}, "seed"),
        ("hidden:4", {}, "bits of the encoding 'hidden' is 4; it must be 8"),
        ("hidden", {"dtype": "int8"}, "hidden states are int8"),
        ("hidden", {"temperature": 2.0}, "has no temperature"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        encoding_of(name, **settings)


def test_an_encoding_without_its_head_says_so():
    for name in NAMES:
        with pytest.raises(ValueError, match="does not know its teacher's head"):
            encoding_of(name).decode([], [], [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_stored(name, value):
    tap = head(rows=10)
    tap.hidden[6, 2] = value
    encoding = encoding_of(name).of_tap(tap)
    with pytest.raises(ValueError, match="not finite at supervised position 2 of document 1 "):
        encoding.encode(tap, [4, 6], labels_of(tap), keys(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_document_of_another_length_is_refused(name):
    tap = head(rows=10)
    encoding = encoding_of(name).of_tap(tap)
    (blob,) = encoding.encode(tap, [10], labels_of(tap), keys(1))
    for bad, count in ((blob[:-1], 10), (np.concatenate([blob, blob[:1]]), 10), (blob, 11)):
        with pytest.raises(ValueError, match="A stored document has"):
            encoding.decode([bad], [count], [count])


@pytest.mark.parametrize("name", ["threshold", "draws", "top"])
def test_what_a_device_without_float64_says_is_written_on_the_host(name, monkeypatch):
    """Draws are inverted in float64, which Apple's GPUs have not. A device without numbers stands for one: whoever computes there fails."""
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(3)) * 3
    labels, encoding = torch.arange(40), encoding_of(name).of_head(vocabulary=300, width=16, dtype="float32")
    expected = encoding.encode_logits(logits, [25, 15], labels, keys(2))
    monkeypatch.setattr(base, "where_float64_is", lambda there: logits if there.is_meta else there)
    found = encoding.encode_logits(logits.to("meta"), [25, 15], labels, keys(2))
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
