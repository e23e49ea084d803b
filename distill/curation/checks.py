"""The checks of a preflight: what is counted, and what is said about it, rule by rule."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from distill.curation.rows import prompts_of, row_keys, texts_of
from distill.models.eos import eos_ids
from distill.pairs.groups import rows_by_prompt
from distill.pairs.measures import PairArrays
from distill.text.encode import CLOSE, OPEN, opens_trace
from distill.text.near_duplicates import near_duplicates, what_users_say
from distill.text.traces import has_cut_trace

LEVELS = ("error", "warning", "info")
_DECODED_ROWS = 256
_NEAR_PROMPTS = 1000


@dataclass(frozen=True)
class Finding:
    """One sentence: figures, the rule, the way out. `level` is one of `LEVELS`."""

    level: str
    name: str
    text: str


class Checks:
    """One look at pairs: every method adds figures and findings; none changes anything."""

    def __init__(
        self, pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, model: Any
    ) -> None:
        self.pairs, self.tokenizer, self.max_length, self.model = pairs, tokenizer, max_length, model
        self.arrays = PairArrays(pairs, max_length)
        self.rows = len(pairs)
        self.figures: dict[str, Any] = {"rows": self.rows, "max_length": max_length}
        self.findings: list[Finding] = []

    def say(self, level: str, name: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, name, text))

    def of(self, count: int | np.integer[Any], total: int | None = None) -> str:
        """`3 of 12 rows (25.0%)`."""
        total = self.rows if total is None else total
        return f"{int(count):,} of {total:,} rows ({count / max(total, 1):.1%})"

    def shape(self, batch_size: int) -> None:
        """Lengths, what max_length cuts, what carries loss, padding."""
        arrays, supervised = self.arrays, self.arrays.supervised()
        before = int(arrays.supervised(cut=False).sum())
        kept = int(np.minimum(arrays.length, arrays.limit).sum())
        over = arrays.length > arrays.limit
        padding = arrays.padding(batch_size)
        self.figures |= {
            "tokens": kept,
            "supervised_tokens": int(supervised.sum()),
            "supervised_share": float(supervised.sum() / max(kept, 1)),
            "padding": {"batch_size": batch_size, "share": padding},
            "lengths": arrays.lengths(),
            "over_max_length": {"rows": int(over.sum()), "supervised_tokens_lost": before - int(supervised.sum())},
        }
        if (useless := np.flatnonzero(supervised == 0)).size:
            first = self.pairs[int(useless[0])]["id"]
            self.say(
                "error", "nothing to learn",
                f"{self.of(useless.size)} have no token with loss, the first is {first}: the prompt alone fills max_length, or "
                "the mask covers all; raise max_length, or leave these rows out.",
            )  # fmt: skip
        if over.any():
            lost = before - int(supervised.sum())
            self.say(
                "warning", "over max_length",
                f"{self.of(over.sum())} are longer than max_length={self.max_length} and lose {lost:,} of {before:,} supervised "
                f"tokens ({lost / max(before, 1):.1%}) with their EOS: the student sees beginnings only; raise max_length (the "
                f"longest row has {arrays.length.max():,} tokens).",
            )  # fmt: skip
        positions = self._positions()
        if positions and min(int(arrays.length.max()), arrays.limit) > positions:
            self.say(
                "error", "positions",
                f"The longest row has {arrays.length.max():,} tokens, but the model has {positions:,} positions; give "
                f"max_length={positions} or less.",
            )  # fmt: skip
        if padding > 0.5:
            self.say(
                "info", "padding",
                f"Batches of {batch_size} rows in random order are {padding:.0%} padding; pack rows, or group them by length.",
            )  # fmt: skip

    def ends(self) -> None:
        """EOS where a completion ended by itself, and only there."""
        arrays, eos = self.arrays, self._eos_ids()
        is_eos = np.isin(arrays.last_id, sorted(eos))
        without, invented = arrays.stopped & ~is_eos, ~arrays.stopped & is_eos
        supervised = arrays.stopped & is_eos & arrays.last_carries_loss()
        self.figures |= {
            "stopped": int(arrays.stopped.sum()),
            "cut": int((~arrays.stopped).sum()),
            "eos": {
                "ids": sorted(eos), "supervised": int(supervised.sum()),
                "stopped_without": int(without.sum()), "cut_with": int(invented.sum()),
            },
        }  # fmt: skip
        if without.any():
            ((last, _),) = Counter(arrays.last_id[without].tolist()).most_common(1)
            name = self.tokenizer.convert_ids_to_tokens(last) if 0 <= last < len(self.tokenizer) else last
            self.say(
                "warning", "no EOS",
                f"{self.of(without.sum())} ended by themselves but do not end with an EOS token "
                f"({', '.join(map(repr, self._names(eos))) or 'the tokenizer has none'}; most of them end with {name!r}): the "
                "student does not learn to stop there; make these pairs anew, or set the tokenizer's eos_token.",
            )  # fmt: skip
        if invented.any():
            self.say(
                "warning", "invented EOS",
                f"{self.of(invented.sum())} were cut at the limit but end with EOS: the student learns to stop in the middle; "
                "remove that token, or correct finish_reason.",
            )  # fmt: skip
        masked = arrays.stopped & is_eos & ~arrays.last_carries_loss() & (arrays.length <= arrays.limit)
        if masked.any():
            self.say(
                "warning", "EOS without loss",
                f"{self.of(masked.sum())} end with EOS, but their loss_mask leaves it out: the student does not learn to stop; "
                "set the mask's last place to 1.",
            )  # fmt: skip
        if not arrays.stopped.any():
            self.say(
                "warning", "all cut",
                f"All {self.rows:,} completions were cut at the limit, so nothing shows where an answer ends; generate with a "
                "larger max_new_tokens.",
            )  # fmt: skip

    def vocabulary(self) -> None:
        """Whether the ids are this tokenizer's and fit the model."""
        highest = int(max(self.arrays.prompt_ids.max(initial=0), self.arrays.completion_ids.max(initial=0)))
        known, embeddings = len(self.tokenizer), self._embeddings()
        self.figures["vocabulary"] = {"highest_id": highest, "tokenizer": known, "model": embeddings}
        if embeddings is not None and highest >= embeddings:
            self.say(
                "error", "vocabulary",
                f"There is a token id {highest:,}, but the model has {embeddings:,} tokens: the pairs are another tokenizer's; "
                "load them as text with this one.",
            )  # fmt: skip
        elif highest >= known:
            self.say(
                "warning", "vocabulary",
                f"There is a token id {highest:,}, but the tokenizer has {known:,} tokens: the pairs are another tokenizer's, "
                "or the teacher emitted a spare slot of its padded head.",
            )  # fmt: skip
        at = np.unique(np.linspace(0, self.rows - 1, min(self.rows, _DECODED_ROWS)).astype(int))
        sample = self.pairs.select(at)
        texts = self.tokenizer.batch_decode(sample["completion_ids"][:], skip_special_tokens=True)
        other = [i for i, (row, text) in enumerate(zip(sample, texts, strict=True)) if row["completion"] not in text]
        self.figures["decoded"] = {"rows": len(at), "other_text": len(other)}
        if other:
            row, text = sample[other[0]], texts[other[0]]
            self.say(
                "error" if len(other) > len(at) / 2 else "warning", "decoded text",
                f"The ids of {self.of(len(other), len(at))} looked at do not decode to the text beside them (pair {row['id']}: "
                f"{text[:40]!r}, not {row['completion'][:40]!r}): they are another tokenizer's; give that model's tokenizer, or "
                "distill.pairs.retokenize(pairs, tokenizer).",
            )  # fmt: skip

    def texts(self) -> None:
        """Control tokens where text should be; markers of the template."""
        added = self.tokenizer.added_tokens_decoder
        control = {i: token.content for i, token in added.items() if token.special and len(token.content) > 1}
        counts = {"prompt": 0, "completion": 0, "inside": 0}
        self.figures["control_tokens"] = counts
        if not control:
            return
        pattern = "|".join(map(re.escape, control.values()))
        for part in ("prompt", "completion"):
            hit = self.arrays.matches(part, pattern)
            counts[part] = int(hit.sum())
            if not hit.any():
                continue
            found = re.search(pattern, texts_of(self.pairs.select([int(np.flatnonzero(hit)[0])]), part)[0])
            assert found is not None, "RE2 and re agree on escaped words"
            self.say(
                "warning" if part == "completion" else "info", f"control tokens in the {part}",
                f"{self.of(hit.sum())} have a control token written out in the text of the {part}, e.g. {found.group()!r}: "
                + ("the student learns to spell it; leave these rows out, or mend the teacher's output."
                   if part == "completion" else "it is encoded as plain characters and forges no turn."),
            )  # fmt: skip
        inside = self.arrays.inner_ids(control)
        if self.arrays.mask is not None:
            inside &= ~self._given("loss_mask")
        counts["inside"] = int(inside.sum())
        if inside.any():
            self.say(
                "warning", "control tokens inside",
                f"{self.of(inside.sum())} have a control token before the end of the completion: the teacher went on after its "
                "turn, or several turns are in one row; cut there, or give a loss_mask.",
            )  # fmt: skip
        template = str(self.tokenizer.chat_template or "")
        if template and not re.search(r"{%-?\s*generation", template):
            self.say(
                "info", "generation markers",
                "The chat template has no {% generation %} markers; that matters only for loss on all assistant turns of a "
                "conversation rendered whole. Pairs need none: their completion, or their loss_mask, says what carries loss.",
            )  # fmt: skip

    def traces(self) -> None:
        """Traces without an end, and loss masks."""
        masks = 0 if self.arrays.mask is None else int(self._given("loss_mask").sum())
        closed = self.arrays.matches("completion", re.escape(CLOSE))
        begun = self.arrays.matches("completion", re.escape(OPEN))
        # a template opens the trace in all prompts or in none
        opened = closed.any() or opens_trace(self.pairs[0]["prompt_ids"], self.tokenizer)
        candidates = np.flatnonzero(~closed) if opened else np.flatnonzero(begun & ~closed)
        cut = [i for i in candidates if has_cut_trace(self.pairs[int(i)], self.tokenizer)]
        self.figures |= {"loss_mask_rows": masks, "traces": {"closed": int(closed.sum()), "cut": len(cut)}}
        if cut:
            self.say(
                "warning", "traces cut",
                f"{self.of(len(cut))} end inside their trace, without an answer; raise max_new_tokens, or choose what is done "
                "with them (distill.text.traces.cut_traces).",
            )  # fmt: skip
        if masks:
            self.say("info", "loss mask", f"{self.of(masks)} have a loss_mask: only some of their tokens carry loss.")

    def repetitions(self, near: bool) -> None:
        """Prompts, samples, and what stands there twice."""
        keys = row_keys(self.pairs, "draw")
        prompts = [{keys[i] for i in rows} for rows in rows_by_prompt(self.pairs).values()]
        samples = [len(draws) for draws in prompts]
        repeated = {"id": self.rows - len(set(self.pairs["id"][:])), "draw": self.rows - sum(samples)}
        several = [draws for draws in prompts if len(draws) > 1]
        same = sum(len({completion for _, completion, *_ in draws}) == 1 for draws in several)
        self.figures |= {
            "prompts": len(prompts),
            "samples": {"least": min(samples), "most": max(samples)},
            "duplicates": {**repeated, "prompts_with_equal_samples": same, "near": None},
        }
        if repeated["draw"]:
            self.say(
                "warning", "duplicates",
                f"{self.of(repeated['draw'])} repeat the same draw (prompt, completion, teacher, sample index) and count twice; "
                "distill clean leaves them out.",
            )  # fmt: skip
        if several and same > len(several) / 2:
            self.say(
                "warning", "equal samples",
                f"{same:,} of {len(several):,} prompts with several samples have the same completion in all of them: the "
                "temperature was 0, or the server ignores seeds; then one sample a prompt says as much.",
            )  # fmt: skip
        if near:
            self._near()

    def _near(self) -> None:
        first: dict[str, int] = {}
        asked = prompts_of(self.pairs)
        for row, (key, _) in enumerate(asked):
            first.setdefault(key, row)
        rows = np.array(list(first.values()))
        at = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _NEAR_PROMPTS)).astype(int))]
        said, contexts = what_users_say([asked[row][1] for row in at])
        found = near_duplicates(said, contexts=contexts)
        count = sum(earlier is not None for earlier in found)
        self.figures["duplicates"]["near"] = {"prompts": len(at), "found": count}
        if count:
            i, j = next((i, j) for i, j in enumerate(found) if j is not None)
            one, other = texts_of(self.pairs.select([at[i], at[j]]), "prompt")
            more = "" if len(at) == len(rows) else f" (of {len(rows):,}; among all there are more)"
            self.say(
                "info", "near duplicates",
                f"{count:,} of {len(at):,} prompts looked at{more} nearly repeat another, e.g. {one[:60]!r} and {other[:60]!r}; "
                "distill clean --near prompt leaves them out.",
            )  # fmt: skip

    def origins(self) -> None:
        """Who wrote the rows, where their ids are from, whether they were verified."""
        names = self.pairs.column_names
        sources = Counter(self.pairs["token_source"][:]) if "token_source" in names else Counter({None: self.rows})
        self.figures["token_source"] = {
            str(name or "not said"): count for name, count in sorted(sources.items(), key=str)
        }
        self.figures["teachers"] = dict(Counter(self.pairs["teacher"][:]).most_common(5))
        if count := sources["text"]:
            self.say(
                "info", "tokens from text",
                f"{self.of(count)} have token ids made from the teacher's text, which need not be those it emitted.",
            )  # fmt: skip
        if "score" in names and (missing := self.rows - int(self._given("score").sum())):
            self.say("info", "no score", f"{self.of(missing)} have no score: the verifier raised, or was not asked.")

    def _given(self, column: str) -> NDArray[Any]:
        """`[rows]` bool: where an optional column has a value."""
        return np.asarray(pc.is_valid(self.arrays.table[column]))

    def _names(self, ids: set[int]) -> list[str]:
        return [str(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(ids)]

    def _eos_ids(self) -> set[int]:
        return {i for i in eos_ids(self.model, self.tokenizer) if i < len(self.tokenizer)}

    def _embeddings(self) -> int | None:
        embeddings: Any = self.model.get_input_embeddings() if hasattr(self.model, "get_input_embeddings") else None
        return int(embeddings.weight.shape[0]) if embeddings is not None else None

    def _positions(self) -> int | None:
        config = getattr(self.model, "config", None)
        return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) if config else None
