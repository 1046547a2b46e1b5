"""Phrases that decide whether a sentence states a value, as regular expressions of folded text.

Values are masked in the text: see `atp.parsing.statements`. The lists were made with tests/corpus, which measures them.
"""

import re

#: A masked value, whatever it is.
VALUE = "[\ue000-\uf8ff]"
QUOTE, UNQUOTE = r"[\"'(\[{]*", r"[\"')\]}]*"


def _words(alternatives: str) -> str:
    return rf"\b(?:{alternatives})\b"


_SENTENCE_START = r"(?:\A|[.!?)}\n\ue000-\uf8ff])\s*"
#: An answer takes back what stands before.
RETRACTION = re.compile(
    "|".join(
        (
            r"\b(?:wait|hold on|no|actually|sorry|hmm|hm|oops)[,.!-]*\s+(?:wait|no|actually|sorry|i (?:meant?|"
            r"changed))\b",
            r"\bactually,?\s+(?=(?:i|my|let me)\b)",
            _words("scratch that|strike that|on second thoughts?|on reflection|i meant(?: to (?:say|write|answer))?"),
            _words("correction|edit") + r"\s*:",
            _words(r"(?:disregard|ignore|forget) (?:that|this|it|the above|what|my \w+)"),
            _words(r"i made an? (?:\w+ )?(?:mistake|error)"),
            r"\.\.\.\s*no[,:.]",
            rf"(?<!\?) \bno[:,]\s+(?=[^.!?\n]*{VALUE})",
            r"(?:\A|[^\s?])\s+no[.!]\s*(?=\Z|(?:i|my|let me)\b)",
            # A sentence that begins so puts in question what stands before it.
            rf"{_SENTENCE_START}(?:(?:wait|hold on|actually|oops|hmm+)\b(?:[,.!:-]+\s*(?:no\b)?)?)+",
            rf"{_SENTENCE_START}(?:(?:but|no|sorry)\b\W*)*(?:that|this)(?:'s| is| was| would be|(?= isn't| wasn't))"
            r" (?:an? (?:typo|mistake|slip|error)|wrong|incorrect|(?:not|isn't|wasn't) (?:right|correct|what i meant|"
            r"my (?:\w+ )?\w+))\b(?! (?:to|for)\b|\s*:)",
            rf"(?<!not )(?<!n't )(?<!never ){_words('take (?:that|it) back|changed? my mind')}",
        )
    )
)

#: Conditions that a statement outside them does not depend on.
CONCESSION = re.compile(_words("(?:even|as|no matter) (?:if|when|though|whether)|(?:regardless of )?whether or not"))
CONDITION = re.compile(
    _words(
        r"if|unless|suppos(?:e|ing)|imagin\w+|assum(?:e|ing)|pretend\w*|hypothetical\w*|when|whenever|in case|"
        "provided|as long as|as soon as|otherwise|were i|had i|let's say|until|once|wenn|falls|si|cuando|"
        "quando|quand|если"
    )
)
#: A reason may weigh anything.
REASON = re.compile(_words("because|since|as (?:it|the|that|this|i)|so that|for the|even|although|though|despite"))

#: Words that deny what follows them, in languages in which models answer.
_NOT = _words(
    r"not|never|\w+n't|cannot|refus\w+|declin\w+|reject\w*|avoid\w*|against|neither|nobody|no one|no|nor|"
    r"instead of|rather than|anything but|nicht|kein\w*|nie|niemals|ne|pas|jamais|nunca|jamás|não|nem|non|"
    "mai|не|нет|никогда"
)
_ANSWERING = (
    r"(?:answer|send|choos|tak|pick|select|writ|reply|give|submit|say|return|go|us|output|respond|propos|put|do)\w*"
)
#: The beginning of a sentence denies, doubts or reports the object behind it, or presents it as somebody else's.
DENIAL = re.compile(rf"{_NOT}(?:(?:\W+\w+){{0,4}}?\W+{_ANSWERING}(?:\W+\w+){{0,2}})?\W*\Z|[不没別]\W*\Z")
DOUBT = re.compile(
    rf"{_words('could|might|may|can')}(?:\W+(?!is\b)\w+){{0,4}}?\W+(?:{_ANSWERING}|be)(?:\W+(?!is\b)\w+){{0,2}}\W*\Z|"
    + _words(
        r"maybe|perhaps|possibly|probably|not sure|unsure|tempt\w+|consider(?:ed)?|thought about|wanted to|"
        "leaning|either|(?:was|were|been|being|am|is|are) (?:told|asked|expected|supposed|required|allowed)|"
        r"previous\w*|earlier|last round|in round \d+"
    )
    + r"|\b(?:was|were|had|answered|sent|wrote|replied|chose|picked|took|submitted|said|gave)\W*\Z"
    # A verb whose subject is somebody else: "people answer".
    r"|(?<!\w)(?!(?:i|i'll|to|will|shall|must|therefore|so|hereby|now|and|final|my|the|correct|right|own|an|"
    r"just|simply|here)\b)"
    r"[\w']+ (?:answer|send|choose|take|write|say|pick|reply)\W*\Z"
)
NOT_OWN = re.compile(
    _words(
        "wrong|bad|forbidden|example|instance|beispiel|exemple|ejemplo|exemplo|esempio|пример|"
        r"(?:required|expected|answer) format\W*\Z|formats?(?: \w+){0,2} (?:is|are|was|would)|template|prompt|"
        r"instructions?|such as|like|possib\w+|options?|alternatives?|others?|they|you (?:want|said|chose)|he|"
        "she|player|opponents?|colleagues?|every(?:one|body)|some(?:one|body)|supervisor|boss|agent|wants?|"
        "would|should|says?|thinks?|sends|chooses|takes|picks|selects|gives|submits|returns|responds"
    )
)
OWN = re.compile(
    _words(
        r"i|i'll|i'm|my (?:\w+ )?(?:answer|choice|decision|response|reply|proposal|value|verdict)|"
        "here(?:'s| is)|final"
    )
)
_OWN_NOUN = r"(?:answer|choice|decision|response|reply|proposal|value|verdict)"
#: What stands right before an object that continues a sentence.
PRESENTED = re.compile(
    r"(?:[^\w\s]|\b(?:i|i'll|i'm|we)(?: (?:am|will|shall|must|therefore|hereby|now|thus|so|still|just|simply|also))*"
    rf" (?:{_ANSWERING}|decide)(?: (?:with|for|on))?|\b(?:{_OWN_NOUN}|thing)\b[^.!?:]* (?:is|would be)"
    r"|\b(?:so|then|but|yet|therefore|thus|hence|json|final|answer|decision))\s*\Z"
)
#: Whose answer it is, where "I" or "my" stands before it too.
FOREIGN = re.compile(
    rf"(?<!here)(?<!that)(?<!\bit)(?<!\blet)'s(?: \w+)? {_OWN_NOUN}\b|\b(?:is|are|was) not \w+\W*\Z|"
    + _words(
        r"read|copied|quot\w+|remember\w*|recall\w*|disagree\w*|disapprove\w*|hate|dislike|oppose|forbidden|illegal|"
        r"other \w+"
    )
)
DENIED_AFTER = re.compile(rf"{UNQUOTE}[\s,.!-]*\b(?:no way|never|not (?:me|mine|for me|with me|my))\b")
OWN_AFTER = re.compile(rf"{UNQUOTE}\s+(?:is|that is|that's) my\b")
GOES_ON = re.compile(r"\s*(?:because|since|as|so|and|but|for)\b")

OR = r"(?:[,;/|&-]|\b(?:or|and|nor|to|vs|versus|oder|ou|und|et|y|o|e)\b\.?)"
#: The rest of the sentence denies its value, shares it with another one or gives it to somebody else.
UNSETTLED = re.compile(
    _words(
        r"probability|chance|half|percent|most of|reject(?:ed)?|den(?:y|ied)|none|false|forbidden|invalid|"
        r"out of the question|off the table|ruled out|odds|(?:not|never) (?:found|permitted|allowed|my|me|now|mine|"
        r"today)|said|says?|whispers?|over and over|dead body|in round"
    )
    + r"|\d ?%|\(\w+ed\)|\A\W*(?:no|not|never|nothing)\b"
    rf"(?! {VALUE}| (?:matter|doubt|question|risk|more|less|the|because)\b)"
    rf"|{OR}\s*{QUOTE}(?:option )?{QUOTE}{VALUE}"
)
LIST = re.compile(rf"{UNQUOTE}\s*\(?(?:{OR}\s*)+{QUOTE}(?:option )?{QUOTE}{VALUE}")
#: How a statement may go on behind its value.
TAIL = re.compile(
    rf"{UNQUOTE}\s*(?:\Z|[.!,;\n]|-\s|\("
    + "|"
    + _words(
        r"because|since|as(?! (?:an?|the) (?:\w+ )*(?:one|example|joke|test|threat|baseline|reference|illustration)\b)|"
        r"so|for|to(?! (?:be|mean|illustrate|show|explain|demonstrate)\b)|over|instead|rather|"
        rf"and(?! {VALUE})(?! a\b)|"
        "despite|even|though|although|but|this|now|again|today|in|with|without|at|here|from|like|regardless|"
        "whatever|it is|please|thanks|thank"
    )
    + ")"
)
#: How it may go on where the value itself is the verb: "I stop for a moment" states nothing.
VERB_TAIL = re.compile(
    rf"{UNQUOTE}\s*(?:\Z|[.!,;\n]|-\s|\("
    + "|"
    + _words(
        "because|since|as (?:it|i|the|that|this)|so|and|but|even|though|although|instead|despite|this|again|today|"
        r"with (?:the others|them|you|every\w+|my \w+)"
    )
    + ")"
)
#: A statement with a key is complete before the end of the text.
COMPLETE = re.compile(rf"{UNQUOTE}(?:[.!]?\s*\n|[.!]\s|[^{{}}\n]*\}})")

#: Words between a noun, such as "choice", and the beginning of its clause.
NOUN_LEAD = re.compile(
    r"(?:\b(?:my|our|the|final|own|new|revised|updated|official|chosen|here is|here's|i (?:confirm|state|"
    r"announce|make|repeat|answer)|json|then|now)\s+)+\Z"
)
#: Words between "I" and the beginning of its clause.
FILLERS = re.compile(
    r"(?:\b(?:so|thus|ok|okay|yes|yeah|sure|alright|right|finally|still|now|today|again|in the end|after all|"
    r"ultimately|accordingly"
    r"|overall|hence|therefore|consequently|as a result|personally|this (?:time|round)|for this round|and|but|"
    r"in conclusion|in short"
    r"|to conclude|which is why|well|no(?=[,.:]))[,:]?\s+)+\Z"
)
#: Of these, those that draw the speaker's own conclusion.
CONNECTIVE = re.compile(_words("so|thus|hence|therefore|consequently|accordingly|as a result|but|still|which is why"))
#: Beginnings of a sentence whose second half, after a comma, is the speaker's.
LEAD = re.compile(
    r"[\s\"'(\[#>*-]*"
    + _words(
        "after|although|though|even|despite|since|because|as(?! long)|given(?! no)|considering|having|"
        "thinking|weighing|following|to|for|in (?:line|accordance|keeping|view|light)|with [^,]* in mind|"
        rf"while(?=[^,]*{VALUE})|"
        "regardless|whatever|without hesitation|instead of|thank|thanks|this|fine|honestly|frankly|yes|no|ok|"
        "okay|well|sure|however|nevertheless|nonetheless|anyway|all things considered|on balance|knowing|"
        "based|true|whether|hello|"
        "i(?:'m|'ve| have)? (?:know|understand|see|agree|respect|thought|considered|weighed|read)|later|"
        "this time|here"
    )
)
#: What may stand before a colon.
PRESENTS = re.compile(
    r"\bi\b|\b(?:answer|decision|choice|conclusion|result|output|json|response|summary|reply|so)\W*:\Z"
    rf"|\bround (?:\d+|{VALUE})\W*\Z"
)
#: The beginning of a sentence makes its second half a report, a possibility or a denial.
REPORT = re.compile(
    _words(
        "says?|said|tells?|told|asks?|asked|thinks?|thought|whispers?|claims?|argues?|writes?|wrote|replied|"
        "answered|believes?|suggests?|recommends?|voice|temptation|puts|heard|quote"
    )
    + r"(?: \w+){0,2}\W*\Z"
)
POSSIBILITY = re.compile(_words(r"would|could|might|may|can|option|plan|possib\w+|either|happens?|example|\w+'d"))
HISTORY = re.compile(_words(r"last|previous\w*|earlier|yesterday|before|first|once"))
BLOCKED = re.compile(
    _words(
        r"maybe|perhaps|possibly|probably|not sure|unsure|in round \w+|under no|no way|never say|not that|"
        r"would have|as a joke|sarcas\w+|not true|on the one hand|on the other hand|in my dreams|in theory|"
        r"in principle|on paper|in an?(?:other)? \w+ (?:life|world)|wrong to|hypothetically"
    )
)
#: The beginning of a sentence that explains the value before it.
EXPLANATION = re.compile(r"\W*(?:my |the )?(?:reason(?:s|ing)?|explanation|rationale|justification|why|because)\b")
#: A sentence behind a value that stands alone comments on it, instead of explaining it.
COMMENT = re.compile(
    _words(r"i|i'\w+|we|me|my|here|that|that's|this|it's|says?|said|tempt\w*|whispers?|people|decision")
)
#: The whole answer decides nothing or tells a story.
UNDECIDED = re.compile(
    r"\b(?:can't|cannot|can not|unable to|won't|will not|refuse to|decline to|rather not|not going to|"
    r"don't (?:want|wish) to)"
    r" (?:decide|choose|pick|make (?:a|this|that) (?:choice|decision)|answer|say|commit|settle)\b|"
    r"\b(?:scenario|case|option) \w+\s*:|\bnot!|(?:\A|[.!?]\s)say\b|"
    + _words(
        "undecided|no decision|abstain|not sure (?:which|what)|suppose|imagine|hypothetically|let's say|"
        "what if|kidding|joking|flip a coin|neither (?:option|of)|on the one hand"
    )
)

FIRST_PERSON = (
    r"\b(?:(?:i|we)(?:(?:'ll| will| shall)(?: be)?|'m| am|'re| are|'ve| have)?(?: going to(?= \w))?"
    r"|let's|let us|let me)"
)
ADVERBS = (
    r"(?:(?:therefore|thus|hence|hereby|still|now|simply|just|gladly|happily|clearly|definitely|certainly|"
    r"will|then|so|also|always"
    r"|again|once more|of course|naturally|firmly|confidently|rather)\s+)*"
)
#: The first half of "I obey the rule and take …".
OBEDIENCE = r"(?:comply|obey|follow|respect|do|drive|act|accept|trust)(?: (?!(?:not|never|who|if|when)\b)[\w']+){0,5}"
PARTICIPLES = r"(?:choosing|going with|picking|taking|selecting|opting for)"
#: What makes a value at the beginning of a sentence the speaker's.
CHOSEN = (
    r"(?:it is(?!\w)|is (?:my (?:\w+ )?(?:choice|decision|answer|pick|selection)|what i (?:choose|take|pick))|"
    r"for me)\b"
)
ALONE_TAIL = r"(?:,? (?:because|since|please)\b[^,]*)?[\s.!]*"
