"""The operating system's services: locks, private files, pauses, names of listeners."""
