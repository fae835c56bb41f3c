"""Commands that train, or ask something of a run that trains."""
