"""What runs on the host: standard library only, Python 3.6 syntax, sent as text.

Nothing here imports anything of lazycluster; the manager imports `frames` (and later `files`) from
here so that the wire format is stated once. Annotations are quoted: importing `typing` would cost
the host milliseconds at each connection.
"""
