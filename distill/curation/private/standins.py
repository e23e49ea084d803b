"""Stand-ins: for the same value the same one, of its form, and nobody's."""

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable

from distill.curation.private.addresses import NETS_V4
from distill.curation.private.finding import find
from distill.curation.private.kinds import Found
from distill.curation.private.numbers import luhn
from distill.curation.private.phones import FICTION, is_fiction
from distill.curation.private.plain import in_digits_of
from distill.curation.private.secrets import MARK

# every word near which a number would be more than a number: a stand-in is none anywhere
_NEAR = "social security nhs sin steuer bsn rijksregister pesel personnummer cpf aadhaar kimlik cnp fødselsnummer cpr"
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
_AREAS = ("201", "202", "205", "206", "212", "213", "214", "215", "216", "301", "303", "304", "305", "307", "308", "309", "312", "313", "314", "315", "316", "317", "319", "401", "402", "404", "405", "406", "407", "408", "410", "412", "413", "414", "415", "416", "417", "418", "419")  # fmt: skip
_TRIES = 400
_KEYS = re.compile(r"(?:[A-Za-z]{2,12}[-_.])+(?:[A-Za-z]{2,5}\d{0,2}[-_])*|AKIA|ASIA|AIza|eyJ|\d{8,10}:")


class StandIns:
    """Hands out stand-ins: HMAC-SHA256 of a key, the kind and the value decides, so that without the key nobody can try values.

    E-mail addresses go to example.org (RFC 2606), IP and MAC addresses into ranges for documentation (RFC 5737, 3849, 7042), phone
    numbers to those set aside for fiction, or, where a country has none, to numbers that are valid nowhere; check digits of cards, IBANs
    and ids are wrong; secrets and passwords hold `EXAMPLE`. So a second pass finds none of them.

    Args:
        key: the same key, the same stand-ins.
        taken: what stands in the data already of the small ranges: `phones.fictions` and `addresses.documented`.

    Example:
        >>> StandIns(b"key").of(find("jo@firma.de")[0])
        'user-tkqbxyms@example.org'
    """

    def __init__(self, key: bytes, taken: Collection[str] = ()) -> None:
        self._key, self._taken = key, set(taken)
        self._made: dict[tuple[str, str], str] = {}
        self.moved = 0  # another one than the first was taken, because that was in the data or another value's
        self.shared = 0  # values beyond what the range holds

    def assign(self, found: Iterable[Found]) -> None:
        """Choose for many values, in an order that is not that of the data: the same values get the same stand-ins in any order."""
        one_each = {(one.kind, one.same): one for one in found}
        for one in sorted(one_each.values(), key=lambda one: self._bytes(one.kind, one.same, 0)):
            self._core(one)

    def of(self, found: Found) -> str:
        """The stand-in, written as the value is: its separators, and the digits of its script."""
        core = self._core(found)
        if found.kind == "mac":
            parts = [core[i : i + 2] for i in range(0, 12, 2)]
            made = found.value[2].join(parts)
            return made.upper() if found.value.isupper() else made
        if found.kind in ("card", "iban", "id"):
            return in_digits_of(_poured(core, found.value), found.value)
        return in_digits_of(_as_written(core, found.value), found.value) if found.kind == "phone" else core

    def _core(self, found: Found) -> str:
        key = found.kind, found.same
        if key not in self._made:
            first = None
            for count in range(_TRIES):
                core = self._candidate(found, count)
                if not _is_nobodys(core, found.kind):
                    continue
                first = first or core
                if core not in self._taken:
                    self.moved += core != first
                    break
            else:
                core = first or self._candidate(found, 0)
                self.shared += 1
            self._made[key] = core
            if found.kind in ("phone", "mac") or (found.kind == "ip" and "." in core):
                self._taken.add(core)
        return self._made[key]

    def _bytes(self, kind: str, same: str, count: int) -> bytes:
        digest = hmac.new(self._key, f"{kind}\0{same}\0{count}".encode("utf-8", "surrogatepass"), "sha256").digest()
        return hashlib.shake_256(digest).digest(256)

    def _candidate(self, found: Found, count: int) -> str:
        drawn = self._bytes(found.kind, found.same, count)
        match found.kind:
            case "email":
                return f"user-{_of(_LETTERS, drawn[:8])}@example.org"
            case "ip" if "." in found.same:
                return f"{NETS_V4[drawn[0] % 3]}{1 + int.from_bytes(drawn[1:4], 'big') % 254}"
            case "ip":
                return f"2001:db8:{':'.join(format(1 + int.from_bytes(drawn[i : i + 2], 'big') % 0xFFFF, 'x') for i in range(0, 12, 2))}"
            case "mac":
                return f"00005e0053{drawn[0]:02x}"
            case "phone":
                return _phone(found.same, drawn)
            case "card":
                return found.same[0] + _of(_DIGITS, drawn[: len(found.same) - 1])
            case "iban":
                return f"{found.same[:2]}00{_like(found.same[4:], drawn)}"
            case "id":
                if re.match(r"\d{3}-\d\d-\d{4}$", found.value):
                    return "000" + _of(_DIGITS, drawn[:6])
                if re.match(r"[A-Z]{2}\d{6}[A-D]$", found.same):
                    return f"QQ{_like(found.same[2:-1], drawn)}{found.same[-1]}"
                return _like(found.same, drawn)
            case "secret":
                return _secret(found.value, drawn)
        return f"{MARK}{_of(_LETTERS, drawn[:4])}{_of(_DIGITS, drawn[4:6])}"


def _of(alphabet: str, drawn: bytes) -> str:
    return "".join(alphabet[b % len(alphabet)] for b in drawn)


def _like(text: str, drawn: bytes) -> str:
    """Each letter another letter of its case, each digit another digit."""
    made = []
    for i, c in enumerate(text):
        b = drawn[i % len(drawn)] + i // len(drawn)
        alphabet = _DIGITS if c.isdigit() else _LETTERS if c.islower() else _LETTERS.upper()
        made.append(alphabet[b % len(alphabet)] if c.isalnum() else c)
    return "".join(made)


def _phone(number: str, drawn: bytes) -> str:
    """In E.164: one for fiction, if it can be of the same length; else one that begins with zeros, as none does."""
    import phonenumbers

    parsed = phonenumbers.parse(number)
    national = phonenumbers.national_significant_number(parsed)
    forms = FICTION.get(parsed.country_code or 0, ())
    forms = tuple(form for form in forms if len(form) == len(national)) or forms
    form = forms[drawn[0] % len(forms)] if forms else "000" + "#" * (len(national) - 3)
    if form.startswith("###"):
        form = _AREAS[drawn[1] % len(_AREAS)] + form[3:]
    digits = iter(_of(_DIGITS, drawn[2:]))
    return f"+{parsed.country_code}{''.join(next(digits) if c == '#' else c for c in form)}"


def _as_written(core: str, written: str) -> str:
    """A number in E.164 with the separators of another one, where as many digits are to be written."""
    import phonenumbers

    code = str(phonenumbers.parse(core).country_code) if is_fiction(core) else None
    code = code or next(core[1 : 1 + n] for n in (1, 2, 3) if core[1 + n : 4 + n] == "000" or n == 3)
    national, places = core[1 + len(code) :], [i for i, c in enumerate(written) if c.isdigit()]
    plus = "".join(c for c in written if c.isdigit())
    whole = written.lstrip().startswith(("+", "00", "＋"))
    before = len(plus) - len(national)
    trunk = ("0", "8", "1", "", code) if not whole else (code, f"00{code}", f"{code}0", f"00{code}0")
    if before >= 0 and plus[:before] in trunk:
        for place, digit in zip(places[before:], national, strict=True):
            written = written[:place] + digit + written[place + 1 :]
        return written
    return f"+{code} {national}" if whole else f"0{national}" if code != "1" else national


def _poured(core: str, written: str) -> str:
    """The letters and digits of one text in the places of those of another."""
    left = iter(core)
    made = "".join((c if not c.isalnum() else _cased(next(left, ""), c)) for c in written)
    return made + "".join(left)


def _cased(new: str, old: str) -> str:
    return new.lower() if old.islower() else new


def _secret(value: str, drawn: bytes) -> str:
    if "PRIVATE KEY" in value:
        between = "\\n" if "\\n" in value else "\n"
        first = re.match(r"-----BEGIN [A-Z0-9 ]*-----", value)
        last = re.search(r"-----END [A-Z0-9 ]*-----$", value)
        return between.join(
            part for part in (first and first[0], _of(_LETTERS, drawn[:57]) + MARK, last and last[0]) if part
        )
    head = _KEYS.match(value)
    kept = head.end() if head and head.end() < len(value) - len(MARK) else 0
    return value[:kept] + _like(value[kept : -len(MARK)], drawn) + MARK


def _is_nobodys(core: str, kind: str) -> bool:
    if kind == "card" and luhn(core):
        return False
    forms = [core]
    if kind == "id":  # with the strokes that some are written with
        forms += [f"{core[:n]}-{core[n:]}" for n in (2, 3, 6, 8) if n < len(core)]
    if kind == "phone":
        forms += [] if is_fiction(core) else [core[1:], core[2:], core[3:], f"0{core[3:]}"]
    return not any(find(form, name=_NEAR) for form in forms)
