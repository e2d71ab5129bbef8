"""kvmcompose: make for virtual testbeds."""

__version__ = "0.1.0"
