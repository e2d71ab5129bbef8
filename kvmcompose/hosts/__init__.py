"""Hosts to run things on: commands, SSH connections, forwarded sockets, transfer of blobs."""
