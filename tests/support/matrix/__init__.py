"""A table of what travels with functions: cases in text files, and the places where code can stand.

A case in a file of this folder:

    === what travels | since 3.10 | from script, module
    +++ shop/tools.py
    (a file beside the script; there may be several)
    +++ main
    (the script; without a line with +++, all of the case is the script)
    >>> call(f, 1)
    2

The last lines are an expression and the value that it must have, which is an expression too. They
see the names of the script; `call`, `error` and `trace` are those of `places.Host`.
"""
