"""What must break the equality, and what must not: negative controls, and blindness for where the text came from."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.equivalence.bed import Rows
from distill.equivalence.bitwise import obstacles
from distill.equivalence.programs import Job, black_box, by_hand, white_box
from distill.equivalence.results import Section
from distill.equivalence.same_program import mean_of_means
from distill.generation.asking import generate
from distill.objectives import Logits
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator
from distill.pairs.schema import pairs_from_rows
from distill.teachers import LocalTeacher
from distill.text.encode import encode_completion

Pair = dict[str, Any]


def controls(job: Job) -> Section:
    """Change one small thing; the equality with the hand loop, which holds without it, has to break."""
    section, reasons = Section("controls"), obstacles(job.start)
    reference, unchanged = by_hand(job), black_box(job)
    equal = f"{unchanged.equal_steps(reference)} of {len(reference.hashes)} steps equal"
    section.claim_unless(reasons, "nothing changed: the equality holds", equal, unchanged.is_equal(reference))
    if not unchanged.is_equal(reference):
        reasons = [*reasons, "the equality does not hold without any change either"]
    changes: list[tuple[str, Callable[[list[Pair]], list[Pair] | None]]] = [
        ("one mask bit of one row", flip_mask_bit),
        ("one dropped EOS", drop_eos),
        ("two pairs change places", lambda rows: swap_pairs(rows, job)),
        ("completions tokenised again from their text", lambda rows: tokenise_again(rows, job.tokenizer)),
    ]
    found = []
    for name, change in changes:
        rows = change(job.pairs.to_list())
        if rows is None:
            section.claim(f"{name}: breaks the equality", "not tried: no pair of this list can be changed so", None)
            continue
        changed = Job(job.start, pairs_from_rows(rows, where="the changed pairs"), job.tokenizer, job.settings)
        found.append((name, black_box(changed), reference))
    two = job.but(accumulation=2)
    found.append(("mean of micro-batch means at accumulation 2", mean_of_means(two), by_hand(two)))
    section.data["controls"] = []
    for name, trail, expected in found:
        distance, at = trail.distance(expected), trail.equal_steps(expected) + 1
        section.data["controls"].append({"name": name, "distance": distance, "first_difference_at": at})
        section.claim_unless(
            reasons,
            f"{name}: breaks the equality",
            f"from step {at} of {len(expected.hashes)} on, up to {distance:.1e} apart",
            not trail.is_equal(expected),
        )
    again = tokenise_again(job.pairs.to_list(), job.tokenizer)
    if again is not None:
        section.data["tokenised_again"] = _first_difference(job.pairs.to_list(), again, job.tokenizer)
    return section


def flip_mask_bit(rows: list[Pair]) -> list[Pair] | None:
    """The first token of one completion is no longer learned."""
    for row in rows:
        if len(row["completion_ids"]) > 1:
            row["prompt_ids"] = row["prompt_ids"] + row["completion_ids"][:1]
            row["completion_ids"] = row["completion_ids"][1:]
            return rows
    return None


def drop_eos(rows: list[Pair]) -> list[Pair] | None:
    """One completion that stopped loses its end."""
    for row in rows:
        if row["finish_reason"] == "stop" and len(row["completion_ids"]) > 1:
            row["completion_ids"] = row["completion_ids"][:-1]
            return rows
    return None


def swap_pairs(rows: list[Pair], job: Job) -> list[Pair] | None:
    """Two rows that belong to different optimiser steps change places. (Within a step, only rounding would change.)"""
    s = job.settings
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(s.seed)).tolist()
    if len(order) <= s.batch_size * s.accumulation:
        return None
    first, last = order[0], order[-1]
    rows[first], rows[last] = rows[last], rows[first]
    return rows


def tokenise_again(rows: list[Pair], tokenizer: PreTrainedTokenizerBase) -> list[Pair] | None:
    """Every completion from its text; None if all give the tokens the teacher emitted."""
    changed = False
    for row in rows:
        if row["completion"]:
            ids = encode_completion(
                row["completion"], tokenizer, row["finish_reason"], chat=not isinstance(row["prompt"], str)
            )
            changed |= ids != row["completion_ids"]
            row["completion_ids"] = ids
    return rows if changed else None


def _first_difference(rows: list[Pair], again: list[Pair], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    differing = [(a, b) for a, b in zip(rows, again, strict=True) if a["completion_ids"] != b["completion_ids"]]
    one, other = (row["completion_ids"] for row in differing[0])
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    spell = tokenizer.convert_ids_to_tokens
    return {
        "pairs": len(rows),
        "differing": len(differing),
        "emitted": spell(one[max(at - 1, 0) : at + 4]),
        "again": spell(other[max(at - 1, 0) : at + 4]),
    }


def provenance(job: Job, teacher: LocalTeacher, prompts: list[Any], max_new_tokens: int = 24) -> Section:
    """Who wrote the text does not matter to the black box; it does to the white box.

    The second teacher is the first with its last norm doubled: every logit is twice as large, the most likely token the
    same at every position, and the distribution another one.
    """
    section = Section("provenance")
    reasons = obstacles(job.start)
    by_people = job.pairs.to_list()
    for i, row in enumerate(by_people):
        row.update(id=f"page-{i}", teacher="a person", sample=0)
    people = Job(job.start, pairs_from_rows(by_people, where="the pairs"), job.tokenizer, job.settings)
    by_teacher, relabelled = black_box(job), black_box(people)
    section.claim_unless(
        reasons,
        "The same pairs, labelled as written by people, give the same weights",
        f"{relabelled.equal_steps(by_teacher)} of {len(by_teacher.hashes)} steps equal",
        relabelled.is_equal(by_teacher),
    )
    other = sharpened(teacher)
    if other is None:
        section.claim(
            "Another teacher that happens to write the same text", "not tried: none could be made of it", None
        )
        return section
    texts = [
        generate(t, prompts, max_new_tokens=max_new_tokens, temperature=0, progress=False) for t in (teacher, other)
    ]
    apart = _distance(teacher, other, texts[0])
    section.claim(
        "Two different teachers write the same text, token by token",
        f"{len(texts[0])} greedy completions; KL between the teachers {apart:.2f} nats a token",
        texts[0]["completion_ids"] == texts[1]["completion_ids"] and apart > 0.01,
    )
    jobs = [replace(job, pairs=text).but(accumulation=1) for text in texts]
    black = [black_box(one) for one in jobs]
    white = [white_box(one, t, [Logits()]) for one, t in zip(jobs, (teacher, other), strict=True)]
    section.data = {
        "kl": apart,
        "steps": len(black[0].hashes),
        "black_box": black[0].distance(black[1]),
        "white_box": white[0].distance(white[1]),
    }
    section.claim_unless(
        reasons,
        "Swapping the teacher for the other one changes nothing in a black-box student",
        f"{black[0].equal_steps(black[1])} of {len(black[0].hashes)} steps equal",
        black[0].is_equal(black[1]),
    )
    section.claim_unless(
        reasons,
        "It does change a white-box student",
        f"{white[0].equal_steps(white[1])} of {len(white[0].hashes)} steps equal; largest difference of a parameter "
        f"{section.data['white_box']:.1e}",
        not white[0].is_equal(white[1]),
    )
    return section


def sharpened(teacher: LocalTeacher) -> LocalTeacher | None:
    """The same model with all logits doubled, through its last norm; None where that does not double them."""
    model: PreTrainedModel = copy.deepcopy(teacher.model)
    norms = (getattr(model.base_model, name, None) for name in ("norm", "ln_f", "final_layernorm", "final_layer_norm"))
    norm: Any = next((one for one in norms if one is not None), None)
    if norm is None:
        return None
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.mul_(2)  # exact in every floating-point type
        ids = torch.arange(1, 9)[None].to(model.device)
        before, after = (one(input_ids=ids).logits for one in (teacher.model, model))
    if not torch.equal(2 * before, after):  # a softcap, a bias of the head, a norm that adds 1 to its weight
        return None
    return LocalTeacher(model, teacher.tokenizer, name=f"{teacher.name}, logits doubled")


@torch.no_grad()
def _distance(one: LocalTeacher, other: LocalTeacher, pairs: Any) -> float:
    batch = PairCollator(one.tokenizer)(pairs.to_list())
    return float(forward_kl(Rows(other.model, batch).logits, Rows(one.model, batch).logits).mean())
