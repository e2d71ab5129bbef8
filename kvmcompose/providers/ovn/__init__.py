"""OVN: its databases on the main host, and what makes a host one of its chassis."""
