"""Everything that touches the world: files, processes, downloads, locks."""
