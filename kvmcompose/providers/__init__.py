"""What can exist on a host, one package per kind: its interface, its driver, its fake."""
