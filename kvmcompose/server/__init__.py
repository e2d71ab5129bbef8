"""The testbed server: its API, its database, and the orchestration of testbeds."""
