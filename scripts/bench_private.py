"""Finders of private data on the constructed set of `private_cases`: recall by kind, what they find where nothing is, time a row.

    python scripts/bench_private.py                          # ours, and its parts by themselves
    PEERS=path/to/site-packages python scripts/bench_private.py   # beside presidio, which is not installed here for its size

A value counts as found if findings of whatever kind cover all of it: then it would be replaced. What is found elsewhere counts as wrong.
Seeds 1000 and up are reported; 0 to 9 were looked at while patterns were made. `--held_out`: sentences that were written afterwards.
"""

import argparse
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable

from private_cases import Case, cases
from private_held_out import held_out

if peers := os.environ.get("PEERS"):
    sys.path.append(peers)

# values that are set aside for examples: who finds these is not wrong in what they are, but in whose
EXAMPLES = {
    "test card",
    "example.com",
    "localhost",
    "documentation IP",
    "AWS, documentation",
    "phone, fiction",
    "mail headers",
}
Span = tuple[int, int]
Finder = Callable[[str], list[Span]]
KINDS = ("email", "phone", "card", "iban", "id", "ip", "mac", "secret", "password")


def ours(text: str) -> list[Span]:
    from distill.curation.private.finding import find

    return [(one.start, one.end) for one in find(text)]


def phone_matcher(region: str | None, leniency: int) -> Finder:
    import phonenumbers

    return lambda text: [(m.start, m.end) for m in phonenumbers.PhoneNumberMatcher(text, region, leniency)]


def detect_secrets(names: tuple[str, ...] | None = None) -> Finder:
    """All plugins with their defaults (entropy among them), or those named; a line at a time, as it reads files."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins = [
        kind() for kind in get_mapping_from_secret_type_to_class().values() if names is None or kind.__name__ in names
    ]

    def run(text: str) -> list[Span]:
        found, at = [], 0
        for line in text.split("\n"):
            for plugin in plugins:
                for secret in plugin.analyze_line(filename="x.txt", line=line, line_number=1):
                    value = secret.secret_value or ""
                    place = line.find(value)
                    if value and place >= 0:
                        found.append((at + place, at + place + len(value)))
            at += len(line) + 1
        return found

    return run


def presidio(threshold: float) -> Finder | None:
    """Its recognisers by patterns and check digits, without an NLP engine; no words around are read then, which would need one."""
    try:
        import presidio_analyzer.predefined_recognizers as kinds
    except ImportError:
        return None
    logging.disable(logging.WARNING)
    chosen = []
    for name in dir(kinds):
        kind = getattr(kinds, name)
        if not name.endswith("Recognizer") or re.match(
            r"(Azure|Basic|GLiNER|HuggingFace|LangExtract|MedicalNER|Spacy|Stanza|Transformers|Date|Url|Uuid)", name
        ):
            continue
        chosen.append(kind())

    def run(text: str) -> list[Span]:
        found = []
        for one in chosen:
            for hit in one.analyze(text, one.supported_entities, None) or []:
                if hit.score >= threshold:
                    found.append((hit.start, hit.end))
        return found

    return run


def measured(finder: Finder, some: list[Case]) -> tuple[dict[str, tuple[int, int]], int, int, Counter[str], float]:
    """`(found and asked by kind, right, wrong, wrong by form, ms a text)`."""
    hit, asked, wrong = Counter[str](), Counter[str](), Counter[str]()
    right = 0
    begun = time.process_time()
    all_found = [finder(case.text) for case in some]
    took = time.process_time() - begun
    for case, found in zip(some, all_found, strict=True):
        at = case.text.index(case.value) if case.kind else -1
        end = at + len(case.value)
        inside = [one for one in found if case.kind and one[0] < end and one[1] > at]
        outside = [one for one in found if one not in inside]
        wrong[case.form] += len(outside)
        right += len(inside)
        if case.kind:
            covered = {i for start, stop in inside for i in range(start, stop)}
            asked[case.kind] += 1
            hit[case.kind] += all(i in covered for i in range(at, end) if case.text[i].isalnum())
    counts = {kind: (hit[kind], asked[kind]) for kind in KINDS}
    return counts, right, sum(wrong.values()), wrong, took / len(some) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--wrong", action="store_true", help="say where each finds something that is not there")
    parser.add_argument("--held_out", action="store_true", help="the set of private_held_out")
    args = parser.parse_args()
    some = [case for seed in range(1000, 1000 + args.seeds) for case in (held_out if args.held_out else cases)(seed)]
    clean = sum(case.kind is None for case in some)
    entropy = ("Base64HighEntropyString", "HexHighEntropyString")
    finders: dict[str, Finder | None] = {
        "distill": ours,
        "phonenumbers, no region": phone_matcher(None, 1),
        "phonenumbers, US": phone_matcher("US", 1),
        "phonenumbers, US, possible": phone_matcher("US", 0),
        "detect-secrets, all": detect_secrets(),
        "detect-secrets, entropy": detect_secrets(entropy),
        "detect-secrets, keyword": detect_secrets(("KeywordDetector",)),
        "presidio, score 0.4": presidio(0.4),
        "presidio, score 0.01": presidio(0.01),
    }
    print(f"{len(some)} texts, {clean} with nothing private in them\n")
    print(
        f"| finder | {' | '.join(KINDS)} | precision | wrong in clean texts: others, and values for examples | ms a text |"
    )
    print("|---" * (len(KINDS) + 4) + "|")
    for name, finder in finders.items():
        if finder is None:
            continue
        finder("once, for what it loads")
        counts, right, bad, forms, took = measured(finder, some)
        cells = [f"{hit / asked:.0%}" if asked else "" for hit, asked in counts.values()]
        free = {case.form for case in some if case.kind is None}
        aside = sum(forms[form] for form in free & EXAMPLES)
        lines = f"{sum(forms[form] for form in free) - aside} and {aside}"
        print(f"| {name} | {' | '.join(cells)} | {right / max(1, right + bad):.0%} | {lines} | {took:.2f} |")
        if args.wrong:
            print(f"    {forms.most_common(12)}")


if __name__ == "__main__":
    main()
