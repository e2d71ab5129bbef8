"""Domains, networks and snapshots, through libvirt."""
