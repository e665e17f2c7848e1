"""Write and read JSON without the modules `json` and `re`, whose imports take 4 ms of a login.

Both are written in C, and `json` itself calls them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class _Decoder:
    """What the scanner reads its options from, those of `json.loads`."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _refuse(value: "object") -> "object":
    raise TypeError("an object of type {} is not JSON".format(type(value).__name__))


def _make() -> "tuple[Callable[[Any], str], Callable[[str], Any]]":
    import _json

    text = _json.encode_basestring_ascii
    encode = _json.make_encoder(None, _refuse, text, None, ": ", ", ", False, False, True)
    scan = _json.make_scanner(_Decoder)  # type: ignore[arg-type]

    def write(value: "Any") -> "str":
        return "".join(encode(value, 0))

    def read(text: "str") -> "Any":
        try:
            value, end = scan(text, 0)
        except Exception:  # SystemError where the error is one of `json`, which is not imported
            raise ValueError("no JSON") from None
        if end != len(text):
            raise ValueError("more than one JSON value")
        return value

    if read(write({"a": [1, 2.5, None, True]})) != {"a": [1, 2.5, None, True]}:
        raise ValueError("not the JSON that was expected")
    return write, read


try:
    dumps, loads = _make()
except Exception:  # another Python, or a later one with other arguments
    import json

    dumps, loads = json.dumps, json.loads
