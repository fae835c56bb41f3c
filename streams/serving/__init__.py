"""What a worker answers over HTTP: the views, and its measurements."""
