"""What a log proves: a run decided again from it, and why each seed became what it is."""
