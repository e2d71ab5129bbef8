"""Talks to a testbed server: HTTP for commands, a WebSocket for their log."""
