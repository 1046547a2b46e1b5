"""Compare labels without their typography: quotes, dashes, escapes, invisible characters, case."""

import re
import unicodedata

_SPELLING = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´ʼ", "'"),
        **dict.fromkeys("“”„‟″«»「」『』", '"'),
        **dict.fromkeys("‐‑‒–—―−﹘﹣", "-"),
    }
)
# Control and private-use characters are marks of `atp.parsing.statements`.
_INVISIBLE = re.compile(
    "[\x00-\x08\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ue000-\uf8ff]"
)
_ESCAPE = re.compile(r"\\(?=[^\w\s]|_)")
_EMPHASIS = re.compile(r"(?<![^\W_])[*_]+|[*_]+(?![^\W_])")
_EDGES = " \t\r\n\"'*_.,;:!()[]"


def fold(text: str) -> str:
    """Return a text with one spelling of each character that typography varies, in folded case."""
    text = unicodedata.normalize("NFKC", text.translate(_SPELLING))
    text = _EMPHASIS.sub("", _ESCAPE.sub("", _INVISIBLE.sub("", text)))
    return unicodedata.normalize("NFKC", text.casefold()).replace("i\u0307", "i")


def normalise(text: str) -> str:
    """Return a label for comparison: folded, without outer quotes and punctuation, "the" and repeated spaces."""
    words = fold(text).strip(_EDGES).split()
    return " ".join([word for word in words if word != "the"] or words)


def has_name(label: str) -> bool:
    """Return whether a label has a letter, digit or sign by which a reply can name it."""
    return bool(normalise(label).strip("?"))


def same_label(one: str, other: str) -> bool:
    """Return whether a reply that names one of two labels could also mean the other."""
    return normalise(one) == normalise(other)
