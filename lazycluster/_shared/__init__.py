"""Hold what runs on both sides: standard library only, Python 3.6 syntax."""
