"""The client of a testbed server: HTTP for requests, a WebSocket for the log of an action."""
