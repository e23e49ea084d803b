"""A teacher and a student so small that everything they can say is a list of 121 sequences; all in float64.

Expectations over the teacher's text are sums here, so the reasons for the theorem can be checked to 1e-10. Padding, masks,
supervised rows and divergences are those of the library.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import product
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.pairs.schema import pairs_from_rows
from distill.signals import SignalRequest, run_with_taps
from distill.teachers import LocalTeacher

EOS = 0
PROMPT = "a b"


def letters(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters: `<eos>` is 0, then a, b, c, ..."""
    names = ["<eos>", *(chr(ord("a") + i) for i in range(vocabulary - 1))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


class Bed:
    """The test bed.

    Args:
        seed: of both models' weights. With 2, the teacher ends 62% of its completions itself.
        vocabulary: tokens, EOS among them.
        length: longest completion, in tokens.
    """

    def __init__(self, seed: int = 2, vocabulary: int = 4, length: int = 4) -> None:
        self.vocabulary, self.length = vocabulary, length
        self.tokenizer = letters(vocabulary)
        self.teacher = LocalTeacher(_gpt2(vocabulary, 2 * seed), self.tokenizer, chat=False, name="tiny GPT-2")
        self.student = _gpt2(vocabulary, 2 * seed + 1)
        self.pairs = pairs_from_rows([self.row(ids) for ids in self._all_completions()], where="the test bed")

    def row(self, ids: list[int], finish_reason: str | None = None) -> dict[str, Any]:
        """A completion as a pair."""
        return {
            "id": "-".join(map(str, ids)),
            "prompt": PROMPT,
            "completion": self.tokenizer.decode(ids, skip_special_tokens=True),
            "prompt_ids": self.teacher.resolve_prompt(PROMPT)[1],
            "completion_ids": ids,
            "finish_reason": finish_reason or ("stop" if ids[-1] == EOS else "length"),
            "sample": 0,
            "teacher": "tiny GPT-2",
        }

    def _all_completions(self) -> Iterator[list[int]]:
        words = range(1, self.vocabulary)
        for size in range(self.length):
            yield from ([*start, EOS] for start in product(words, repeat=size))
        yield from (list(whole) for whole in product(words, repeat=self.length))

    @cached_property
    def index(self) -> dict[tuple[int, ...], int]:
        """Completion to its place in `pairs`."""
        return {tuple(ids): i for i, ids in enumerate(self.pairs["completion_ids"])}

    @cached_property
    def lengths(self) -> Tensor:
        """`[S]`: tokens of every completion."""
        return torch.tensor([len(ids) for ids in self.pairs["completion_ids"]], dtype=torch.float64)

    @cached_property
    def _teacher_rows(self) -> "Rows":
        with torch.no_grad():
            return Rows(self.teacher.model, self._batch)

    @property
    def teacher_logits(self) -> Tensor:
        """`[N, V]`: the teacher's logits at all supervised positions of all completions."""
        return self._teacher_rows.logits

    @cached_property
    def probabilities(self) -> Tensor:
        """`[S]`: how likely the teacher is to write each completion; they sum to 1."""
        return self._teacher_rows.log_probabilities().exp()

    def probabilities_if(self, warp: Callable[[Tensor], Tensor]) -> Tensor:
        """The same for a teacher whose logits `[N, V]` are changed at every position, as samplers do."""
        return self._teacher_rows.log_probabilities(warp(self._teacher_rows.logits)).exp()

    @cached_property
    def _batch(self) -> dict[str, Tensor]:
        return PairCollator(self.tokenizer)(self.pairs.to_list())

    def student_rows(self) -> "Rows":
        """The student on all completions, with gradients."""
        return Rows(self.student, self._batch)

    def sft_losses(self, pairs: Any = None) -> Tensor:
        """`[S]`: cross-entropy of every completion (or of those in `pairs`), summed over its tokens."""
        batch = self._batch if pairs is None else PairCollator(self.tokenizer)(pairs.to_list())
        rows = Rows(self.student, batch)
        return rows.by_pair(cross_entropy(rows.logits, rows.labels, reduction="none"))

    def white_box_losses(self) -> Tensor:
        """`[S]`: forward KL along every completion, summed over its positions."""
        rows = self.student_rows()
        return rows.by_pair(forward_kl(rows.logits, self.teacher_logits))

    def sequence_kl(self) -> Tensor:
        """KL between the two distributions over whole completions, by its definition: sum of p (log p - log q)."""
        log_q = self.student_rows().log_probabilities()
        return (self.probabilities * (self.probabilities.log() - log_q)).sum()

    def gradient(self, loss: Tensor, keep: bool = False) -> Tensor:
        """`[P]`: gradient of a number in all parameters of the student, as one vector."""
        parts = torch.autograd.grad(loss, list(self.student.parameters()), retain_graph=keep)
        return torch.cat([part.flatten() for part in parts])

    def gradients(self, losses: Tensor) -> Tensor:
        """`[S, P]`: one gradient for each loss."""
        return torch.stack([self.gradient(loss, keep=True) for loss in losses])


class Rows:
    """Supervised rows of a collated batch under a model: the way of a batch in `WhiteBoxTrainer`."""

    def __init__(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        labels, rows = batch["labels"], supervised_rows(batch["labels"])
        logits = run_with_taps(model, model, inputs, rows, SignalRequest(logits=True)).logits
        assert logits is not None
        self.logits = logits
        self.labels = supervised_tokens(labels, rows)
        self.pair = rows.nonzero()[:, 0]
        self._count = len(labels)

    def by_pair(self, values: Tensor) -> Tensor:
        """Sum `[N]` over the rows of each pair."""
        return torch.zeros(self._count, dtype=values.dtype).index_add(0, self.pair, values)

    def log_probabilities(self, logits: Tensor | None = None) -> Tensor:
        """Log-probability of every completion."""
        logits = self.logits if logits is None else logits
        return self.by_pair(-cross_entropy(logits, self.labels, reduction="none"))


def _gpt2(vocabulary: int, seed: int) -> GPT2LMHeadModel:
    # GPT-2, because its layers stay in float64 where Llama's norm goes through float32
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_inner=16, initializer_range=0.5,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval()
