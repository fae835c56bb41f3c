-- What users say of their runs and measure in them.

CREATE TABLE descriptions (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64 COMMENT 'the last description of a run holds',
    time DateTime64(6, 'UTC'),
    name String COMMENT 'empty: it has none',
    tags Array(LowCardinality(String)),
    notes String,
    params String COMMENT 'JSON; of the first description alone, and empty where the run has none'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE metrics (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64 CODEC(DoubleDelta, ZSTD(1)),
    time DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'when it went to the log',
    metric LowCardinality(String),
    step UInt64 CODEC(DoubleDelta, ZSTD(1)) COMMENT 'after which it was logged',
    value Float64
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, metric, step, sequence, log, partition, offset, row);

ALTER TABLE trials ADD COLUMN loss Nullable(Float64) COMMENT 'mean loss without the seed; NULL in older events';
