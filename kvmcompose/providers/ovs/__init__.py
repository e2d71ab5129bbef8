"""Bridges and their ports, through Open vSwitch."""
