"""Questions that ``esper sql --named`` answers, a file of SQL each."""
