"""What runs on the host: standard library only, Python 3.6 syntax; how it travels says `archive`.

Nothing here imports anything of lazycluster; the manager imports from here what both halves use:
`archive`, `frames`, `ports` and `trees`. Annotations are quoted: importing `typing` would cost the
host milliseconds at each connection.
"""
