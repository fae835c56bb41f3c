"""One seed: the stages of its life, how it learns without changing the host, and how it is blended in."""
