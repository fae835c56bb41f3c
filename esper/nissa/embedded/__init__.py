"""The database without a server: one process has its files, and answers the others."""
