"""The database's tables, views and rollups as numbered files of SQL, applied in their order."""
