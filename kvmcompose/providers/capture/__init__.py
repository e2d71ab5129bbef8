"""Packet captures, through tcpdump(8)."""
