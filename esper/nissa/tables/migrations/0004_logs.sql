-- The logs that the tables were filled from, and what of them never came.

CREATE TABLE logs (
    url String COMMENT 'as the log was named; more than one log: it was replaced by another',
    topic LowCardinality(String),
    log LowCardinality(String),
    time DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'when the sink first saw it'
) ENGINE = ReplacingMergeTree
ORDER BY (url, topic, log);

CREATE TABLE losses (
    log LowCardinality(String), topic LowCardinality(String), partition UInt16,
    offset UInt64 COMMENT 'where the log began when the loss was seen; 0 where the log was replaced by another',
    records UInt64 COMMENT 'at most so many were never written; of a log that was replaced, those that were',
    reason LowCardinality(String) COMMENT 'expired or replaced',
    time DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'when it was seen'
) ENGINE = ReplacingMergeTree
ORDER BY (log, topic, partition, offset);

CREATE TABLE undoing (
    log LowCardinality(String), topic LowCardinality(String), partition UInt16,
    offset Int64 COMMENT 'what lies beyond is to be deleted and written anew'
) ENGINE = MergeTree
ORDER BY (log, topic, partition);
