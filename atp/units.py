"""Amounts as a person reads them. One number has one unit, and two or three digits."""

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(number: float) -> str:
    """12,345 or 17; below ten with a decimal, 5.6; below one with two digits that tell, 0.034."""
    if number >= 9.95 or not number:
        return f"{number:,.0f}"
    if number < 0.001:
        return "< 0.001"
    return f"{number:.1f}" if number >= 0.995 else f"{number:#.2g}"


def duration(seconds: float) -> str:
    """Seconds as s, min or h."""
    if seconds < 90:
        return f"{digits(seconds)} s"
    return f"{digits(seconds / 60)} min" if seconds < 90 * 60 else f"{digits(seconds / 3600)} h"


def size(bytes: float) -> str:
    """Bytes as B, kB, MB or GB, in steps of 1,000."""
    return f"{_scaled(bytes, 1e3)}B"


def count(number: float) -> str:
    """A number of things, exactly below a million and then in millions or billions (M, G)."""
    return _scaled(number, 1e6).rstrip()


def _scaled(number: float, least: float) -> str:
    for unit, letter in UNITS:
        if number >= max(unit, least):
            return f"{digits(number / unit)} {letter}"
    return f"{number:,.0f} "
