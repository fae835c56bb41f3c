"""The trainer's side of the log: what it writes, what it reads again after a crash, what it is asked."""
