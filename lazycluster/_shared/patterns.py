"""Patterns of what a copy leaves out, as in a .gitignore, as one regular expression.

The rules: the last pattern that matches decides, and one that begins with `!` keeps what an earlier
one left out. A pattern with a slash at its beginning or in its middle begins at the copied folder;
one without matches a name at any depth. A slash at its end means folders only. `*` and `?` match
within a name, `[…]` one character of it, `**` any number of folders. A backslash makes the next
character literal. What is in a folder that is left out is not looked at.
"""

import itertools
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator

    Excludes = Callable[[bytes, bool], bool]  # takes a path below the folder, and if it is a folder

_TOKEN = re.compile(r"\\(.?)|(\*+)|(\?)|(\[)|(.)", re.DOTALL)
_CLASS = re.compile(r"\[([!^]?)(\]?(?:\\.|[^\]\\])*)\]", re.DOTALL)


def compile_patterns(patterns: "Iterable[str]") -> "Excludes | None":
    """Return a function that is true for what the patterns leave out; None without a pattern.

    Names that are not UTF-8 have surrogates in the patterns, on every host.

    Raises:
        ValueError: If a pattern cannot match anything, or is not one of a .gitignore.
    """
    expressions = []  # type: list[str]
    negated = []  # type: list[bool]
    groups = itertools.count()
    for pattern in patterns:
        try:
            own = pattern[1:] if pattern[:1] == "!" else pattern
            expressions.insert(0, _translated(own, groups))
            re.compile(expressions[0])
        except (ValueError, re.error) as error:
            message = "Invalid pattern {!r} in exclude: {}.".format(pattern, error)
            raise ValueError(message) from None
        negated.insert(0, pattern[:1] == "!")
    if not expressions:
        return None
    # The first alternative that matches wins, so the last pattern is the first one.
    named = ("(?P<p{}>{})".format(index, one) for index, one in enumerate(expressions))
    search = re.compile("|".join(named), re.DOTALL).match

    def excludes(path: "bytes", is_folder: "bool") -> "bool":
        text = path.decode("utf-8", "surrogateescape")
        match = search(text + "/" if is_folder else text)
        return match is not None and not negated[int((match.lastgroup or "")[1:])]

    return excludes


def _translated(pattern: "str", groups: "Iterator[int]") -> "str":
    """Return a pattern without its `!` as a regular expression for a path; a folder's has a `/`.

    The groups in it get unused numbers.
    """
    if pattern.strip() == "":
        raise ValueError("it is empty; leave it out")
    if pattern[0] in "#!":
        raise ValueError("write \\{0} for a name that begins with {0}".format(pattern[0]))
    if pattern.endswith(" ") and not pattern.endswith("\\ "):
        raise ValueError("it ends with a blank; write '\\ ' for a name that does")
    if "\0" in pattern:
        raise ValueError("no name contains a NUL")
    pattern.encode("utf-8", "surrogateescape")
    only_folders = pattern.endswith("/")
    core = pattern[:-1] if only_folders else pattern
    anchored = "/" in core
    parts = core.split("/")
    if anchored and not parts[0]:
        del parts[0]
    if not all(parts) or "." in parts or ".." in parts:
        raise ValueError("a name between slashes cannot be empty, '.' or '..'")
    found = "" if anchored else "(?:.*/)?"
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**" and anchored:
            found += "[^/].*" if last else "(?:.*/)?"
        else:
            found += "(?=[^/])" + _translated_name(part, groups) + ("" if last else "/")
    return found + ("/" if only_folders else "/?") + r"\Z"


def _translated_name(part: "str", groups: "Iterator[int]") -> "str":
    fixed = [""]  # what is between the stars
    at = 0
    while at < len(part):
        match = _TOKEN.match(part, at)
        assert match is not None
        escaped, stars, any_one, bracket, other = match.groups()
        at = match.end()
        if escaped == "":
            raise ValueError("a backslash at the end of a name escapes nothing")
        if stars:
            fixed.append("")
        elif any_one:
            fixed[-1] += "[^/]"
        elif bracket:
            whole = _CLASS.match(part, match.start())
            if whole is None:
                raise ValueError("'[' has no ']'; write '\\[' for the character")
            fixed[-1] += _translated_class(*whole.groups())
            at = whole.end()
        else:
            fixed[-1] += re.escape(escaped or other)
    if len(fixed) == 1:
        return fixed[0]
    first, *middle, last = fixed
    # The first place is as good as any other for what is between two stars. A lookahead is not
    # tried again, so `*a*a*a*b` ends soon for a long name of `a`; see `fnmatch.translate`.
    for text in filter(None, middle):
        first += "(?=(?P<g{0}>[^/]*?{1}))(?P=g{0})".format(next(groups), text)
    return first + "[^/]*" + last


def _translated_class(negation: "str", inner: "str") -> "str":
    if "[:" in inner:
        raise ValueError("classes like [:alpha:] are not supported; write a range like [a-z]")
    # Python reads `--`, `&&`, `||`, `~~` and `[` in a set as a warning or more than that.
    text = re.sub(r"\\(.)|([\[\]&|~^])", lambda one: "\\" + re.escape(one[1] or one[2])[-1], inner)
    return "(?!/)[{}{}]".format("^" if negation else "", text)
