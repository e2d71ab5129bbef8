"""Prints progress and results: on a terminal, as lines, or as JSON. No package below this one prints."""
