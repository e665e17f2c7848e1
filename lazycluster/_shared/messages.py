"""The messages to and from the process of an actor; both sides use this module.

The INPUT of an actor is messages, and so is its VALUE. A message has a header of nine bytes (kind
and length, big-endian) and its data. Each CALL gets one reply: any number of VALUE_PART, and then
RETURNED or RAISED. The first one is the call of the class; if it raises, the process ends.
"""

import struct

HEADER = struct.Struct(">BQ")

# To the actor.
CALL = 1  # the pickle of (function, args, kwargs); after the first, that is a method's name
REFERENCE = 2  # a key of a content, and the content unless the process has it
CLOSE = 3  # nothing; the last message

# From the actor.
VALUE_PART = 1  # a part of the pickled value, or of the pickled exception
RETURNED = 2  # the rest of the value
RAISED = 3  # JSON: an outcome with a `failure`, see `frames`


def encode(kind: "int", data: "bytes" = b"") -> "bytes":
    """Return a complete message."""
    return HEADER.pack(kind, len(data)) + data
