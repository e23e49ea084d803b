"""Names that nobody has: one for each probe of each seed, so that no two seeds, and neither examining nor teaching, share a prompt."""

import math

MOST = 256  # probes of an ability with one seed
SEEDS = 500

# First names are of one purpose each, so no name is of both.
_FIRST = {
    "examine": "Anna Boris Clara David Elena Felix Grace Henry Irene Jacob Karen Leo Maria Nathan Olivia Peter Rosa Simon Teresa Victor Wendy Adam Bella Carl Diana Edgar Fiona George Hanna Ivan Julia Kevin Linda Martin Nora Oscar Paula Robert Sarah Thomas Ursula Walter Yvonne Albert Betty Conrad Doris Ernest",
    "teach": "Alice Bruno Carla Daniel Emma Frank Gloria Hugo Ingrid James Kate Lucas Monica Nicole Otto Petra Ralph Sonia Tobias Vera William Agnes Bernard Cecilia Dominic Esther Frederick Gina Harold Ida Jonas Kira Laura Michael Natalie Oliver Philip Rita Stella Timothy Uma Vincent Xavier Amelia Benedict Celeste Dennis Flora",
}  # fmt: skip
# no beginning is the beginning of another one, so that no family is put together in two ways
_BEGINNINGS = "Ab Bar Bel Bor Cal Cor Dan Dun Ek Far Fen Gal Gol Har Hess In Kal Kor Lam Lor Mal Mor Nel Nor Ost Pel Per Quin Ral Rod Sal Sul Tan Tor Ulm Ves Wal Wick Yar Zan"
_ENDINGS = (
    "ack ard bach bald ber berg bing bri burn by combe croft dale den der dorf el en erby ers fax feld fen fold ford gard gate ger ham hart hast "
    "hold holm hurst ing ker kin kirk land ley lin low man mark mere mond nell ner nik over pen rath ridge ron sen shaw son stad stein ston "
    "ten ton ulf vale ven ward well wick win wood yard zig"
)


def name_of(seed: int, number: int, purpose: str) -> str:
    """The name of a probe: a first and a family name, no two alike among all seeds, numbers and purposes.

    Args:
        seed: 0 to 499.
        number: of the probe, 0 to 255.
        purpose: `"examine"` or `"teach"`.

    Raises:
        ValueError: one of them out of range.

    Example:
        >>> name_of(0, 0, "examine"), name_of(0, 1, "examine"), name_of(0, 0, "teach")
        ('Anna Aback', 'Ernest Lormere', 'Alice Aback')
    """
    if not 0 <= seed < SEEDS or not 0 <= number < MOST:
        raise ValueError(f"seed is {seed} (0 to {SEEDS - 1}) and number {number} (0 to {MOST - 1}).")
    if purpose not in _FIRST:
        raise ValueError(f"purpose is {purpose!r}; it must be one of {', '.join(_FIRST)}.")
    parts = [_FIRST[purpose].split(), _BEGINNINGS.split(), _ENDINGS.split()]
    size = math.prod(map(len, parts))
    # a step without a common factor goes through all names before one comes again, and puts unlike ones side by side
    place = (seed * MOST + number) * _step(size) % size
    said = []
    for part in parts:
        place, which = divmod(place, len(part))
        said.append(part[which])
    return f"{said[0]} {said[1]}{said[2]}"


def _step(size: int) -> int:
    assert size >= SEEDS * MOST, f"there are {size} names"
    step = round(size * 0.6180339887)
    while math.gcd(step, size) > 1:
        step += 1
    return step
