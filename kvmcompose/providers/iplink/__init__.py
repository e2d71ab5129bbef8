"""Network interfaces, through ip-link(8)."""
