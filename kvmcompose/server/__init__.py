"""The testbed server: an API, a store, the orchestration of testbeds, and drivers for what it drives."""
