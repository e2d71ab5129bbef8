"""The folders of projects on hosts, and the links to them."""
