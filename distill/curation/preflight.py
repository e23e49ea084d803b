"""What would go wrong in a training on these pairs, found before it: each finding is one sentence with its figures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.processes import say
from distill.curation import repetition_checks, text_checks, token_checks
from distill.curation.look import LEVELS, Finding, Look

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Preflight:
    """What was counted, and what follows from it.

    Args:
        figures: plain values by name.
        findings: errors first, then warnings, then what is only good to know.
    """

    figures: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[str]:
        """Sentences about what training cannot work with."""
        return [finding.text for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[str]:
        """Sentences about what training works with, but teaches something that was probably not meant."""
        return [finding.text for finding in self.findings if finding.level == "warning"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"figures": self.figures, "findings": [vars(finding) for finding in self.findings]}

    def __str__(self) -> str:
        f = self.figures
        lines = [
            f"Preflight: {f['rows']:,} rows of {f['prompts']:,} prompts, {f['tokens']:,} tokens, "
            f"{f['supervised_share']:.0%} of them supervised; {f['eos']['supervised']:,} of {f['stopped']:,} rows that ended "
            "carry loss on their EOS."
        ]
        lines += [f"  {finding.level}: {finding.text}" for finding in self.findings if finding.level != "info"]
        return "\n".join(lines)


def preflight(
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    model: "PreTrainedModel | None" = None,
    *,
    batch_size: int = 8,
    near: bool = True,
) -> Preflight:
    """Count what decides a training on these pairs, and say what is wrong. 100,000 rows take a few seconds.

    Args:
        pairs: see `distill.pairs`.
        tokenizer: the student's.
        max_length: longest row of the training, in tokens.
        model: the student; its vocabulary, positions and end tokens are looked at, too.
        batch_size: rows a batch, for the share of padding.
        near: look for near duplicates among the prompts (1,000 of them at most).

    Raises:
        ValueError: no rows, or `max_length` or `batch_size` below 1.

    Example:
        >>> print(preflight(pairs, tokenizer, max_length=512))
        Preflight: 160 rows of 160 prompts, 11,412 tokens, 56% of them supervised; ...
    """
    if len(pairs) == 0:
        raise ValueError("There are no pairs to look at.")
    if batch_size < 1 or (max_length is not None and max_length < 1):
        raise ValueError(f"batch_size is {batch_size} and max_length {max_length}; both must be at least 1.")
    look = Look(pairs, tokenizer, max_length, model)
    token_checks.shape(look, batch_size)
    token_checks.shown(look)
    token_checks.ends(look)
    token_checks.vocabulary(look)
    text_checks.control_tokens(look)
    text_checks.traces(look)
    repetition_checks.repetitions(look, near)
    text_checks.origins(look)
    return Preflight(look.figures, tuple(sorted(look.findings, key=lambda finding: LEVELS.index(finding.level))))


def check_before_training(
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    model: Any,
    batch_size: int,
) -> Preflight:
    """Print the preflight in short, as recipes do before training; go on with warnings.

    Arguments as of `preflight`.

    Raises:
        ValueError: training could not work with these pairs.
    """
    report = preflight(pairs, tokenizer, max_length, model, batch_size=batch_size)
    say(report)
    if report.errors:
        raise ValueError(f"These pairs cannot be trained on. {report.errors[0]}")
    return report
