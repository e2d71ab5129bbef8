"""The labels that containers and images of projects have."""

from __future__ import annotations

#: The labels of a container and of an image that a project made.
PROJECT_LABEL, GUEST_LABEL, MADE_LABEL = "kvm-compose.project", "kvm-compose.guest", "kvm-compose.made"
#: The label of an image that was built, with its key (``core.image_build``).
BUILD_LABEL = "kvm-compose.build"
#: The label of a container with its own name. Images, and what others make of them, inherit all labels.
NAME_LABEL = "kvm-compose.name"
