"""Numbers of JSON between bounds, digit by digit."""

import functools
from fractions import Fraction

from jaxdlm.grammar.syntax import Node, alt, cat, chars, optional, repeat, text

DIGIT = chars([(48, 57)])
FIRST = chars([(49, 57)])
DIGITS = repeat(DIGIT, 0, None)
WHOLE = alt(text("0"), cat(FIRST, DIGITS))
FRACTION = cat(text("."), DIGIT, DIGITS)
EXPONENT = cat(chars([(69, 69), (101, 101)]), optional(chars([(43, 43), (45, 45)])), DIGIT, DIGITS)
INTEGER = alt(text("0"), cat(optional(text("-")), FIRST, DIGITS))
NUMBER = cat(optional(text("-")), WHOLE, optional(FRACTION), optional(EXPONENT))
NOTHING = alt()


def integer(low: int | None, high: int | None) -> Node:
    """The integers from `low` to `high`, without leading zeros; None: without end."""
    positive = _whole(max(low or 0, 0), high) if high is None or high >= 0 else NOTHING
    if low is not None and low >= 0:
        return positive
    least = 1 if high is None else max(1, -high)
    negative = _whole(least, None if low is None else -low)
    return alt(positive, cat(text("-"), negative))


def _whole(low: int, high: int | None) -> Node:
    """The integers from `low` to `high`, neither of them negative."""
    longest = len(str(low)) if high is None else len(str(high))
    parts = []
    for length in range(len(str(low)), longest + 1):
        least = 10 ** (length - 1) if length > 1 else 0
        start, end = max(low, least), 10**length - 1 if high is None else min(high, 10**length - 1)
        if start <= end:
            parts.append(_between(str(start), str(end)))
    if high is None:
        parts.append(cat(FIRST, repeat(DIGIT, longest, None)))
    return alt(*parts)


def _between(low: str, high: str) -> Node:
    """Strings of digits as long as both, from the one to the other."""
    if low == high:
        return text(low)
    if set(low) == {"0"} and set(high) == {"9"}:
        return repeat(DIGIT, len(low), len(low))
    same = next(index for index in range(len(low)) if low[index] != high[index])
    front, a, b = low[:same], low[same:], high[same:]
    rest = len(a) - 1
    if rest == 0:
        return cat(text(front), chars([(ord(a), ord(b))]))
    inner = [cat(text(a[0]), _between(a[1:], "9" * rest)), cat(text(b[0]), _between("0" * rest, b[1:]))]
    if ord(b[0]) - ord(a[0]) > 1:
        inner.append(cat(chars([(ord(a[0]) + 1, ord(b[0]) - 1)]), repeat(DIGIT, rest, rest)))
    return cat(text(front), alt(*inner))


# --------------------------------------------------------------------------------------------------- with a fraction


Bound = tuple[Fraction, bool]  # a number, and whether it is a bound that is not reached itself


def number(low: Bound | None, high: Bound | None) -> Node:
    """The decimal numbers between two bounds, without exponent, and with any number of digits behind the point."""
    if low is None and high is None:
        return NUMBER
    positive = _decimals(low if low and low[0] >= 0 else (Fraction(0), False), high)
    if low is not None and low[0] >= 0:
        return positive
    above = (-high[0], high[1]) if high is not None and high[0] < 0 else (Fraction(0), True)  # there is no -0
    return alt(positive, cat(text("-"), _decimals(above, None if low is None else (-low[0], low[1]))))


def _decimals(low: Bound, high: Bound | None) -> Node:
    """The same of bounds that are not negative: by their whole parts, and by fractions where these are a bound's."""
    if high is not None and (high[0] < 0 or low[0] > high[0]):
        return NOTHING
    least, a = _split(low[0])
    start = (a, low[1])
    if high is None:
        return alt(cat(text(str(least)), _fraction(start, None)), cat(_whole(least + 1, None), optional(FRACTION)))
    most, b = _split(high[0])
    end = (b, high[1])
    if least == most:
        return cat(text(str(least)), _fraction(start, end))
    parts = [cat(text(str(least)), _fraction(start, None)), cat(text(str(most)), _fraction(None, end))]
    if most - least > 1:
        parts.append(cat(_whole(least + 1, most - 1), optional(FRACTION)))
    return alt(*parts)


def _split(value: Fraction) -> tuple[int, str]:
    """(whole part, digits behind the point without zeros at the end) of a decimal number."""
    whole, rest = divmod(value.numerator, value.denominator)
    digits = ""
    while rest:
        digit, rest = divmod(10 * rest, value.denominator)
        digits += str(digit)
    return whole, digits


Digits = tuple[str, bool] | None  # still to be compared with, and whether equality is out; None: compared already


def _fraction(low: Digits, high: Digits) -> Node:
    """What stands behind a whole part: nothing, or a point and digits, between two fractions."""
    digits = cat(text("."), _digits(low, high, True))
    return alt(text(""), digits) if _ends(low, high) else digits


def _ends(low: Digits, high: Digits) -> bool:
    """Whether a fraction may end here, zeros being all that could follow."""
    return (low is None or low == ("", False)) and (high is None or high != ("", True))


@functools.cache
def _digits(low: Digits, high: Digits, first: bool) -> Node:
    """Digits, at least one if `first`, of fractions between the two."""
    if (low is None or not low[0]) and (high is None or not high[0]):
        return _simple(low, high, int(first))
    parts: list[Node] = [] if first or not _ends(low, high) else [text("")]
    for digit in range(10):
        below = low is not None and digit < int(low[0][:1] or 0)
        above = high is not None and digit > int(high[0][:1] or 0)
        if not below and not above:
            after = _digits(_behind(low, digit), _behind(high, digit), False)
            parts.append(cat(text(str(digit)), after))
    return alt(*parts)


def _behind(bound: Digits, digit: int) -> Digits:
    if bound is None or digit != int(bound[0][:1] or 0):
        return None
    return bound[0][1:], bound[1]


def _simple(low: Digits, high: Digits, least: int) -> Node:
    """Where no digit of a bound is left to be compared with: any digits, all zeros, not all zeros, or none."""
    zeros = repeat(text("0"), least, None)
    if low is None and high is None:
        return repeat(DIGIT, least, None)
    if high is None:
        return cat(repeat(text("0"), 0, None), FIRST, DIGITS) if low and low[1] else repeat(DIGIT, least, None)
    return zeros if not high[1] and not (low and low[1]) else NOTHING
