"""Looking after a log's cluster: topics, rights, releases, transactions that hang."""
