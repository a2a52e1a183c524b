"""How long a text from outside may be, and what is taken off it: prompts, captions, lines, receipts and names.

A length is looked at before anything walks over the text, and combining marks are thinned before anything normalises
it: Unicode's normalisation takes quadratic time in a stack of them, and holds the interpreter meanwhile.
"""

import unicodedata

MAX_BYTES = 262_144  # of any one text, in UTF-8: 200 lines of 300 characters of four bytes each fit
MAX_NAME_BYTES = 4_096  # of a file's path, as most systems have it
MAX_DIGITS = 1_000  # of a whole number
MAX_MARKS = 30  # on one character: the "stream-safe" limit of Unicode's annex 15; no language writes more
MAX_ITEMS, MAX_DEPTH = 10_000, 20  # of a value made of lists and objects

# These have the combining class 0, but fall apart into marks that have others.
MARKS_IN_DISGUISE = frozenset("\u0f73\u0f75\u0f81")


class TooLong(ValueError):
    """A text, name or number beyond its limit; one sentence, which names the limit."""


def size(text: str) -> int:
    """The bytes of a text in UTF-8, lone surrogates counted too."""
    return len(text.encode("utf-8", "surrogatepass"))


def check(text: str, what: str, most: int = MAX_BYTES) -> None:
    """Raises TooLong for a text of more than `most` bytes in UTF-8; a much longer one is not even counted."""
    if len(text) > most or (4 * len(text) > most and size(text) > most):
        raise TooLong(
            f"{what} is too long: it has {len(text):,} characters, at most {most:,} bytes are taken. Shorten it."
        )


def check_value(value) -> None:
    """Raises TooLong for a value of JSON with a text, a path, a number, a depth or a length beyond its limit."""
    level, items = [value], 0
    for _ in range(MAX_DEPTH):
        inside = []
        for part in level:
            if isinstance(part, str):
                check(part, "A text")
            elif isinstance(part, int) and part.bit_length() > MAX_DIGITS * 3.32:
                raise TooLong(f"A number is too long: at most {MAX_DIGITS:,} digits are taken.")
            elif isinstance(part, dict):
                for key, each in part.items():
                    if key in ("path", "url", "orig_name") and isinstance(each, str) and not each.startswith("data:"):
                        check(each, "The name of a file", MAX_NAME_BYTES)
                inside += [*part, *part.values()]
            elif isinstance(part, list | tuple):
                inside += part
        items += len(inside)
        if items > MAX_ITEMS:
            raise TooLong(f"A value is too long: it has more than {MAX_ITEMS:,} items.")
        if not inside:
            return
        level = inside
    raise TooLong(f"A value is nested too deep: at most {MAX_DEPTH} lists in lists are taken.")


def thinned(text: str) -> str:
    """The text with no more than MAX_MARKS combining marks in a row."""
    if text.isascii():
        return text
    kept, marks = [], 0
    for c in text:
        marks = marks + 1 if unicodedata.combining(c) or c in MARKS_IN_DISGUISE else 0
        if marks <= MAX_MARKS:
            kept.append(c)
    return "".join(kept)


def without_accents(text: str) -> str:
    """The text with its letters alone: "café" is "cafe". Letters that are written otherwise fall apart, as in NFKD."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def one_line(text: str) -> str:
    """The text in NFC on one line, without control, bidi and invisible characters, lone surrogates, stacks of marks.

    Halves of a pair that were split are joined; the joiners inside emoji stay. Takes time in proportion to the length.
    Raises TooLong above MAX_BYTES.
    """
    check(text, "A text")
    text = "".join(
        " " if c.isspace() or unicodedata.category(c) == "Cc" else c
        for c in text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
        if c in "\u200c\u200d" or unicodedata.category(c) not in ("Cf", "Cs", "Cn")
    )
    text = thinned(unicodedata.normalize("NFC", thinned(text)))  # some marks fall apart into two
    return " ".join(text.split())
