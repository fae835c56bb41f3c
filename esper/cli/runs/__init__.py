"""Commands that read runs: what happened, why, and how runs compare. None imports torch."""
