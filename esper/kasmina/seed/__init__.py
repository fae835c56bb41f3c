"""One seed: its life, how it learns beside the host, and how it is blended in."""
