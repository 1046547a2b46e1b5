"""Format numbers for people, with one unit and two or three digits."""

PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(number: float) -> str:
    """Format a number: 12,345 or 17; 5.6 below ten; 0.034, with two significant digits, below one."""
    if number >= 9.95 or not number:
        return f"{number:,.0f}"
    if number < 0.001:
        return "< 0.001"
    return f"{number:.1f}" if number >= 0.995 else f"{number:#.2g}"


def duration(seconds: float) -> str:
    """Format seconds as s, min or h."""
    if seconds < 90:
        return f"{digits(seconds)} s"
    return f"{digits(seconds / 60)} min" if seconds < 90 * 60 else f"{digits(seconds / 3600)} h"


def size(bytes: float) -> str:
    """Format bytes as B, kB, MB or GB, in steps of 1,000."""
    return f"{_scale(bytes, 1e3)}B"


def count(number: float) -> str:
    """Format a number of things: exact below a million, then in millions (M) or billions (G)."""
    return _scale(number, 1e6).rstrip()


def _scale(number: float, threshold: float) -> str:
    for unit, letter in PREFIXES:
        if number >= max(unit, threshold):
            return f"{digits(number / unit)} {letter}"
    return f"{number:,.0f} "
