"""The columns a pair has only where something filled them: which there are, and what they must look like."""

from typing import Any

OPTIONAL = ("token_source", "score", "score_error", "loss_mask", "top_logprobs")
TOKEN_SOURCES = ("teacher", "text")


def optional_columns(row: dict[str, Any], where: str, completion_ids: list[int]) -> dict[str, Any]:
    """Those of a row that are filled, checked.

    Raises:
        ValueError: a value of another kind or size than `distill.pairs` says.
    """
    found = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
    source, score, error = (found.get(name) for name in ("token_source", "score", "score_error"))
    if source is not None and source not in TOKEN_SOURCES:
        raise ValueError(f"{where}: token_source is {source!r:.60}, expected one of {TOKEN_SOURCES}.")
    if score is not None and not _is_number(score):
        raise ValueError(f"{where}: score must be a finite number, not {score!r:.60}.")
    if error is not None and not isinstance(error, str):
        raise ValueError(f"{where}: score_error must be text, not {error!r:.60}.")
    mask = found.get("loss_mask")
    if mask is not None:
        if not isinstance(mask, list) or not all(type(m) is int and m in (0, 1) for m in mask):
            raise ValueError(f"{where}: loss_mask must be a list of 0 and 1, not {str(mask)[:60]}.")
        if len(mask) != len(completion_ids) or not any(mask):
            raise ValueError(
                f"{where}: loss_mask has {len(mask)} places and {sum(mask)} of them are 1; it needs one for each of the "
                f"{len(completion_ids)} completion tokens, and at least one 1."
            )
    top = found.get("top_logprobs")
    if top is not None and not (isinstance(top, list) and all(_is_top(place) for place in top)):
        raise ValueError(f"{where}: top_logprobs must be a list of {{tokens, logprobs}}, not {str(top)[:60]}.")
    return found if score is None else {**found, "score": float(score)}


def _is_top(place: Any) -> bool:
    return (
        isinstance(place, dict)
        and place.keys() == {"tokens", "logprobs"}
        and all(isinstance(value, list) for value in place.values())
        and len(place["tokens"]) == len(place["logprobs"])
        and all(isinstance(token, str) for token in place["tokens"])
        and all(map(_is_number, place["logprobs"]))
    )


def _is_number(value: Any) -> bool:
    """Finite also as the 32-bit float that log-probabilities are kept as."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38
