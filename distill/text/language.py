"""Which language a text is written in, and when that is better left unsaid; by `py3langid` (langid.py, Lui & Baldwin 2012)."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from distill.text.words import letters


def languages_of(
    texts: Iterable[str], *, keep: Collection[str] = (), shortest: int = 40, probability: float = 0.9
) -> list[str | None]:
    """The language of each text as an ISO 639 code; `None` where it cannot be said.

    Args:
        texts: about 0.1 ms each.
        keep: codes that are asked about; only checked to be known.
        shortest: nothing is said about a text with fewer letters.
        probability: nor where the best language has less than this.

    Raises:
        ValueError: an unknown code, a value out of range, or the `py3langid` package is missing.

    Example:
        >>> languages_of(["Photosynthesis is the process by which plants make food.", "Oui."])
        ['en', None]
    """
    if shortest < 0 or not 0 <= probability <= 1:
        raise ValueError(f"shortest is {shortest} and probability {probability}; 0 or more, and from 0 to 1.")
    identifier = _identifier()
    if unknown := sorted(set(keep) - set(identifier.labels)):
        raise ValueError(f"There is no language {', '.join(unknown)}; codes are like en, de, fr, zh (ISO 639).")
    found: list[str | None] = []
    for text in texts:
        if letters(text) < shortest:
            found.append(None)
            continue
        language, confidence = identifier.classify(text)
        found.append(language if confidence >= probability else None)
    return found


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """The identifier with its own 97 languages and more; loading it takes a second or two."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ValueError(
            "Telling languages apart needs the 'py3langid' package: pip install 'distill[inspect]'."
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
