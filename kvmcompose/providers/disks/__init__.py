"""Project folders and disk images on hosts."""
