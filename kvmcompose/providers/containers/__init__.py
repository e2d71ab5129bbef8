"""Containers of projects, in an engine that speaks the Docker Engine API: Docker, or Podman's service."""
