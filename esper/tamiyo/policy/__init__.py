"""What decides where a run grows, and what it sees of the run."""
