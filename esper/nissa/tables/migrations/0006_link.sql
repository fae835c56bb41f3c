-- The chain through a run's events.

ALTER TABLE events ADD COLUMN link String DEFAULT '' CODEC(ZSTD(1))
    COMMENT 'SHA-256 in hex of the run''s event before, as stored; empty: not chained' AFTER causes;
