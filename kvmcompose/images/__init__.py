"""The disk images of this machine: catalogue, downloads, the store, and what an image says of itself."""
