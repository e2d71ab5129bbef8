"""Guests, from inside, by SSH."""
