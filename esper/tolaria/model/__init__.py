"""What is trained: the user's model and data, the seeds in it, and what it must not be."""
