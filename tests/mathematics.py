"""Texts that resemble mathematics, for properties of the parsers."""

from hypothesis import strategies as st

PIECES = ["1", "2", "9" * 9, ".", ",", " ", "-", "+", "/", "*", "^", "^{", "{", "}", "(", ")", "[", "]", "|", "=", "$"]
PIECES += [
    "\\frac",
    "\\sqrt",
    "\\boxed{",
    "\\text{",
    "\\pi",
    "\\",
    "x",
    "y",
    "e",
    "i",
    "cm",
    "%",
    "°",
    "\ud800",
    "٣",
    "²",
]
PIECES += ["answer", "Answer: ", ": ", '{"answer": ', '"', "\n", "<think>", "</think>", "nan", "1e999999999", "\x00"]
soup = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
