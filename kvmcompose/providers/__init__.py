"""What can exist on a host, one folder per kind: its interface, its driver, its fake."""
