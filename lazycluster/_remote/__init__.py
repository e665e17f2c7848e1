"""Run on the host only: standard library, Python 3.6 syntax; `_shared.archive` says how it travels.

Modules here import each other and `_shared`, nothing else of lazycluster. Annotations are quoted:
importing `typing` would cost the host milliseconds at each connection.
"""
