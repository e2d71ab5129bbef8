"""A machine to run things on: commands, SSH, forwarded sockets, transfer of contents."""
