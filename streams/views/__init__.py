"""The views in their topics: kept by generations, rebuilt, and compared with the log."""
