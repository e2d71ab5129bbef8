"""Shows what happens: on a terminal, as lines, as JSON. Nothing below this package prints."""
