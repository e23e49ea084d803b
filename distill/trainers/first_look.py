"""First look at the student's own text, before it is trained on: how far it is from its teacher, whether it ends, what it repeats."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate.utils import send_to_device

from distill.curation.look import LEVELS, Finding
from distill.curation.repetition import GOPHER, repetition
from distill.curation.verifiers import Verifier, score_of
from distill.models.adapters import base_of
from distill.models.evaluating import evaluating
from distill.models.precision import exact
from distill.objectives import Logits
from distill.objectives.aligned_next_token import Columns, head_size
from distill.objectives.base import values_of
from distill.objectives.logits import LogitsTerm
from distill.pairs.collate import supervised_rows
from distill.signals import SignalRequest, Signals, SignalSource, SupervisedRows, run_with_taps
from distill.signals.base import ALIGNED, inputs_of
from distill.signals.several import RoutedFacts
from distill.text.alignment import SharedTokens
from distill.text.encode import OPEN, opens_trace
from distill.text.two_templates import TwoTemplates, two_templates
from distill.trainers.rollouts import HIGHEST_KL

TOP = 16  # most likely tokens of each side whose overlap is told
TOKENS = 256  # of each rollout, from its beginning on, that both models are compared on: 256 rows of logits at once
_LOOPS = {name: limit for name, limit in GOPHER.items() if name.startswith("repeated_")}
_WORDS = 20  # fewer are too few to say that they repeat
_NOTHING = 1e-5  # nats a token; rounding of two passes of one model in float32


@dataclass(frozen=True)
class FirstLook:
    """What was seen of rollouts, and what follows from it.

    Args:
        figures: plain values by name.
        findings: sentences; an error stops the run.
        templates: both chat templates, where both tokenizers are known.
    """

    figures: dict[str, Any]
    findings: tuple[Finding, ...]
    templates: TwoTemplates | None = None

    @property
    def errors(self) -> list[str]:
        """Sentences about what on-policy training is not expected to work with."""
        return [finding.text for finding in self.findings if finding.level == "error"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        shown = None if self.templates is None else vars(self.templates)
        return {"figures": self.figures, "findings": [vars(one) for one in self.findings], "templates": shown}

    def __str__(self) -> str:
        f = self.figures
        kl = f"{f['reverse_kl']:.3f} nats a token from the teacher (KL student to teacher; {f['forward_kl']:.3f} the other way)"
        lines = [
            f"Preflight of rollouts: {f['rollouts']} by the student as it is, {f['tokens']:,} tokens, {f['ended']} ended by themselves.",
            f"  Its own text is {kl}, over {f['compared']:,} positions"
            + (" (lower bounds: tokens that are not named are one bucket)." if f["lower_bound"] else ".")
            + ("" if f["aligned"] is None else f" Two tokenizers: {f['aligned']:.1%} of the positions are compared."),
        ]
        if f["overlap"] is not None:
            lines[-1] += f" Of the {f['overlap_of']} most likely tokens of each side, {f['overlap']:.1%} are the same."
        if f["long_enough"]:
            lines.append(
                f"  {f['repeating']} of {f['long_enough']} rollouts of {_WORDS} words and more repeat themselves."
            )
        if f["pass_rate"] is not None:
            lines.append(f"  {f['pass_rate']:.1%} of {f['scored']} rollouts pass the verifier.")
        if self.templates is not None:
            how = ", differing tokens in ⟦⟧" if any(self.templates.differing) else ": the same"
            lines.append(f"  Chat templates{how}.\n{self.templates}")
        lines += [f"  {finding.level}: {finding.text}" for finding in self.findings]
        return "\n".join(lines)


@dataclass
class BothSides:
    """Two models that are compared on rollouts, one rollout at a time.

    Args:
        student: the model, perhaps with an adapter.
        source: the teacher's, prepared.
        collator: a `PairCollator` for both.
        vocabulary: tokens to compare with each teacher, by name; of one, under the name `""`.
        shared: the tokens that two tokenizers know; None: they are one.
        device: where the student is.
        autocast: within which the student runs in training.
    """

    student: Any
    source: SignalSource
    collator: Any
    vocabulary: Mapping[Any, int | None]
    shared: SharedTokens | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Any = nullcontext

    @torch.no_grad()
    def on(self, pair: Mapping[str, Any]) -> dict[str, float]:
        """Sums over the first `TOKENS` positions of one rollout; without any that can be compared, zeros."""
        count = len(pair["completion_ids"])
        mask = [1] * min(count, TOKENS) + [0] * max(0, count - TOKENS)
        batch = send_to_device(self.collator([{**pair, "loss_mask": mask}]), self.device)
        batch.pop("pairs", None)
        rows, model = SupervisedRows.of(supervised_rows(batch["labels"])), base_of(self.student)
        with self.autocast():  # of a student that teaches itself; every other teacher leaves it
            name, theirs = self._teachers(batch, rows)
        if ALIGNED[0] in batch:
            theirs = replace(theirs, aligned=(batch[ALIGNED[0]], batch[ALIGNED[1]]))
        with evaluating(self.student), self.autocast():
            inputs = inputs_of(batch)
            ours = run_with_taps(model, model, inputs, rows, SignalRequest(logits=True), rows.next_tokens(batch["labels"]))  # fmt: skip
        found: dict[str, float] = {"positions": len(rows), "compared": len(rows)}
        for divergence in ("reverse_kl", "forward_kl"):
            tokens = "same" if self.shared is None else "aligned"
            term = LogitsTerm(Logits(divergence, tokens=tokens), self.vocabulary[name], shared=self.shared)
            values = values_of(term, ours, theirs, len(rows))
            found[divergence] = float(exact(values["logits"]).sum())
            if "aligned" in values:
                found["compared"] = float(values["aligned"].sum())
        found["overlap"], found["overlap_of"] = self._overlap(ours, theirs, self.vocabulary[name])
        self.source.release()
        return found

    def _teachers(self, batch: Mapping[str, Any], rows: SupervisedRows) -> tuple[Any, Signals]:
        """What the teacher of this rollout says, and its name."""
        logits = SignalRequest(logits=True)
        if not isinstance(self.source.facts, RoutedFacts):
            return "", self.source.signals(batch, rows, logits)
        request = SignalRequest(parts=dict.fromkeys(self.source.facts.parts, logits))
        part = max(self.source.signals(batch, rows, request).parts, key=lambda part: len(part.index))
        return part.name, part.signals

    def _overlap(self, ours: Signals, theirs: Signals, vocabulary: int | None) -> tuple[float, int]:
        """Sum over positions of the share of the likeliest tokens that both sides have among theirs, and of how many."""
        logits = ours.logits
        assert logits is not None
        if theirs.aligned is not None:
            order, places = theirs.aligned
            logits = logits.index_select(0, order[: len(places)])
        mine = logits[:, :vocabulary]
        if theirs.sparse is not None:
            listed = getattr(theirs.sparse, "log_probs", None)
            if listed is None:
                return math.nan, TOP
            width = min(TOP, listed.shape[1])
            best = theirs.sparse.ids.gather(1, listed.topk(width).indices)
        else:
            assert theirs.logits is not None
            width = min(TOP, mine.shape[1], theirs.logits.shape[1])
            best = theirs.logits[:, :vocabulary].topk(width).indices
        if theirs.aligned is not None:
            best = best.index_select(0, theirs.aligned[1])
            assert self.shared is not None
            size = head_size(theirs.logits) if theirs.logits is not None else max(self.shared.sizes[1], 1)
            best = Columns.of(self.shared, head_size(mine), size, best.device).of_student[best]
        same = mine.topk(width).indices[:, :, None] == best[:, None, :]
        return float(exact(same.any(-1)).mean(-1).sum()), width


def first_look(
    rollouts: Sequence[Mapping[str, Any]],
    sides: BothSides,
    tokenizer: Any,
    stops: set[int],
    highest_kl: float = HIGHEST_KL,
    verifier: Verifier | None = None,
) -> FirstLook:
    """What a teacher says of what the student wrote, and what that says of an on-policy training.

    Args:
        rollouts: pairs that the student wrote, with whatever else teacher and verifier read.
        sides: both models.
        tokenizer: the student's.
        stops: tokens that end a completion.
        highest_kl: KL(student || teacher) in nats a token, above which the run is not to begin. No paper that we know of states a number; ours
            is where a token of the student's is 20 times less likely to its teacher, in the geometric mean.
        verifier: scores a rollout; 1 is correct. It gets the prompt's row.

    Raises:
        ValueError: no rollouts.

    Source: Fu et al. 2026 (arXiv 2603.25562), teachers as guides on text they would not write; Li et al. 2026 (arXiv 2604.13016), the overlap of
    likely tokens and the cold start; Rae et al. 2021, repetition.
    """
    if not rollouts:
        raise ValueError("There is no rollout to look at; give at least one prompt.")
    sums: dict[str, float] = {}
    for one in rollouts:
        for name, value in sides.on(one).items():
            sums[name] = min(sums.get(name, TOP), value) if name == "overlap_of" else sums.get(name, 0) + value
    compared = max(sums["compared"], 1)
    overlap = sums["overlap"] / compared
    figures = {
        "rollouts": len(rollouts),
        "tokens": sum(len(one["completion_ids"]) for one in rollouts),
        "ended": sum(int(one["completion_ids"][-1]) in stops for one in rollouts),
        "compared": int(sums["compared"]),
        "aligned": None if sides.shared is None else sums["compared"] / max(sums["positions"], 1),
        "reverse_kl": sums["reverse_kl"] / compared,
        "forward_kl": sums["forward_kl"] / compared,
        "overlap": None if math.isnan(overlap) else overlap,
        "overlap_of": int(sums["overlap_of"]),
        "lower_bound": sides.shared is not None or sides.source.facts.next_token == "top",
        "highest_kl": highest_kl,
    }
    texts = [_text(one, tokenizer, stops) for one in rollouts]
    figures |= _repeating(texts) | _passed(rollouts, texts, tokenizer, verifier)
    other = sides.source.tokenizer or sides.source.facts.find_tokenizer()
    other = other if hasattr(other, "get_vocab") else getattr(other, "tokenizer", other)
    templates, problem = None, None
    try:
        templates = None if other is None else two_templates(tokenizer, other)
    except ValueError as error:  # they are shown, and decide nothing
        problem = str(error)
    shown = sides.shared is not None or all(one.get("teacher_prompt_ids") is not None for one in rollouts)
    findings = _findings(figures, templates, shown)
    if problem:
        findings.append(Finding("warning", "templates", f"The chat templates cannot be shown side by side: {problem}"))
    return FirstLook(figures, tuple(sorted(findings, key=lambda one: LEVELS.index(one.level))), templates)


def _text(rollout: Mapping[str, Any], tokenizer: Any, stops: set[int]) -> str:
    ids = [int(token) for token in rollout["completion_ids"]]
    return str(tokenizer.decode(ids[:-1] if ids[-1] in stops else ids, skip_special_tokens=True))


def _repeating(texts: Sequence[str]) -> dict[str, int]:
    shares = [repetition(text, _LOOPS, fewest_words=_WORDS) for text in texts if len(text.split()) >= _WORDS]
    return {
        "long_enough": len(shares),
        "repeating": sum(any(share[name] > limit for name, limit in _LOOPS.items()) for share in shares),
    }


def _passed(
    rollouts: Sequence[Mapping[str, Any]], texts: Sequence[str], tokenizer: Any, verifier: Verifier | None
) -> dict[str, Any]:
    if verifier is None:
        return {"pass_rate": None, "scored": 0, "score_error": None}
    scores, problem = list[float](), None
    for one, text in zip(rollouts, texts, strict=True):
        prompt = [int(token) for token in one["prompt_ids"]]
        row = {"prompt": tokenizer.decode(prompt, skip_special_tokens=True), **one}
        score, error = score_of(verifier, row, f"{OPEN}\n" * opens_trace(prompt, tokenizer) + text, None)
        problem = problem or error
        scores += [] if score is None else [score]
    rate = sum(score >= 1 for score in scores) / len(scores) if scores else None
    return {"pass_rate": rate, "scored": len(scores), "score_error": problem}


def _findings(f: Mapping[str, Any], templates: TwoTemplates | None, shown: bool) -> list[Finding]:
    found, kl, limit = [], f["reverse_kl"], f["highest_kl"]
    if not f["compared"]:
        found.append(Finding("error", "nothing compared", "None of the rollouts has a position that the teacher can be asked about."))  # fmt: skip
    elif not math.isfinite(kl):
        found.append(
            Finding(
                "error",
                "no number",
                f"The KL of the student's own text to the teacher is {kl}: one of the two models gives no finite logits.",
            )
        )
    elif kl > limit:
        found.append(
            Finding(
                "error", "initial KL",
                f"The student's own text is {kl:.2f} nats a token from the teacher, above highest_kl={limit:g}: a token of it is {math.exp(min(kl, 99)):,.0f} times "
                "less likely to the teacher than to the student (geometric mean), and on text that it would not write a teacher is no guide (Fu et al. 2026, "
                "who state no number; the limit is ours). Train on the teacher's text first (share=0, or share=Schedule(0, 1), as Li et al. 2026), see "
                "whether both chat templates are meant, or raise highest_kl.",
            )
        )  # fmt: skip
    elif kl < _NOTHING:
        found.append(
            Finding(
                "warning", "nothing to learn",
                "On its own text the student is its teacher already (KL 0): there is nothing to learn, unless the teacher is shown more (teacher_prompt).",
            )
        )  # fmt: skip
    if not f["ended"]:
        found.append(
            Finding(
                "warning", "no end",
                f"None of {f['rollouts']} rollouts ended: nothing is learned about how to end from such. Raise max_new_tokens, give prompts with the student's chat "
                "template, or begin with a student that was fine-tuned on whole answers.",
            )
        )  # fmt: skip
    if f["repeating"] * 2 > f["long_enough"]:
        found.append(
            Finding(
                "warning", "repetition",
                f"{f['repeating']} of {f['long_enough']} rollouts repeat themselves; a teacher finds each repetition likelier than the last, so a loop scores well "
                "(Fu et al. 2026). Begin with a student that was trained on the teacher's text.",
            )
        )  # fmt: skip
    if f["score_error"] is not None:
        found.append(Finding("warning", "verifier", f"The verifier scored {f['scored']} of {f['rollouts']} rollouts; the first problem: {f['score_error']}."))  # fmt: skip
    if templates is not None and any(templates.differing) and not shown:
        ours, theirs = templates.differing
        found.append(
            Finding(
                "warning", "templates",
                f"The chat templates differ ({ours} tokens of the student's, {theirs} of the teacher's), and the teacher reads each rollout behind the student's "
                "prompt, which is not how it is asked. Give prompts as rows with prompt_ids and, in the teacher's template, teacher_prompt_ids.",
            )
        )  # fmt: skip
    return found
