"""What a RuntimeGroup is made of."""
