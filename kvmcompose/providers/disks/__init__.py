"""Disk images of guests on hosts."""
