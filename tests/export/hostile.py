"""Replies that must stay text in every format."""

LONG = "ab " * 350_000
#: Replies with markup, control characters, what is left of half a surrogate pair, an escape of one, and a megabyte.
REPLIES = [
    "</script><script>document.title = 'hostile'</script><img src=x onerror=alert(1)>",
    "\x00\x1b[31mred\x07 \u202ereversed\u2066 \u2028 \r\n | a | b |\n|---|---|",
    "half \ufffd and \\ud800, \\input{/etc/passwd} $x_1^2$ 50% & #1 ~ {",
    "![](https://example.com/image.png) [link](javascript:alert(1)) = 1+1 @SUM(A1)",
    LONG,
]
