"""How events become Avro bytes and come back, and how their schemas may change."""
