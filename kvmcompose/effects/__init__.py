"""Access to the machine: files, processes, the private folder of a project, the environment."""
