"""Management ports: a network namespace with a single interface, that of a guest network (ip-netns(8))."""
