"""The files to which serial consoles of guests are written."""
