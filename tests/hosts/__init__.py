"""Real testbed hosts, guests and images for the tests marked ``real``."""

from hosts.agent import NoAgent
from hosts.prerequisites import MissingPrograms
from hosts.testbed import CommandError, HostError, TestHost, TestHosts

__all__ = ["CommandError", "HostError", "MissingPrograms", "NoAgent", "TestHost", "TestHosts"]
