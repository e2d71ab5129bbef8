"""Commands inside guests, over SSH."""
