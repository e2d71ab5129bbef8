"""Artefacts become tasks of doit: what is out of date, why, and how it is made."""
