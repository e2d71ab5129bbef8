"""Nouns: values without I/O that every other package speaks of."""
