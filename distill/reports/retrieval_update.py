"""After the change: what each arm answered to a question about a changed document, without a training in between."""

from collections.abc import Iterable, Mapping
from typing import Any

from distill.reports.retrieval_words import ARMS
from distill.retrieval.examining import Examined


def answered_anew(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each arm with retrieval (and each of its trainings) the answer to the first question about a changed fact.

    Args:
        runs: of `retrieval.json`.

    Returns:
        Of each `arm`, `title`, `seed`, `question`, `expected`, `old`, `text` (its answer), `seconds` (of the search, and the question's share of
        its batch), `new` (it says the new value), `took_old`; and of all questions about changed facts how many got the new value
        (`right`) and how many there are (`count`). An arm that was asked none is left out.
    """
    found = []
    for run in runs:
        changed = [one for one in map(Examined.of, run.get("retrieved") or ()) if one.question.column == "changed"]
        if changed:
            first = changed[0]
            found.append(
                {
                    "arm": run["arm"], "title": ARMS[run["arm"]], "seed": run["seed"],
                    "question": first.question.text, "expected": first.question.expected, "old": first.question.old,
                    "text": first.text, "seconds": first.seconds, "new": first.right, "took_old": first.took_old,
                    "right": sum(one.right for one in changed), "count": len(changed),
                }
            )  # fmt: skip
    return found


def update_told(update: Mapping[str, Any]) -> str:
    """The same for people, a line an arm.

    Args:
        update: of `retrieval.json`: `documents`, `seconds` until the index had them, and `arms` (`answered_anew`).
    """
    lines = [
        f"The index had {update['documents']} changed documents after {update['seconds']:.2f} s, without a training."
    ]
    if arms := update["arms"]:
        one = arms[0]
        lines[0] += f" Then {one['question']!r} (new: {one['expected']}, old: {one['old']}):"
    for one in arms:
        training = "" if one["seed"] is None else f" (seed {one['seed']})"
        value = "yes" if one["new"] else "no, the old one" if one["took_old"] else "no"
        lines.append(
            f"  {one['title']}{training}: answered in {one['seconds']:.2f} s, new value: {value}; in all {one['right']} of {one['count']} such questions"
        )
    return "\n".join(lines)
