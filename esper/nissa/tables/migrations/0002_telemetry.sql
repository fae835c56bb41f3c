-- Per-step measurements: rows, and rollups that stay when the rows have gone.

CREATE TABLE telemetry (
    log LowCardinality(String), partition UInt16,
    offset UInt64 CODEC(DoubleDelta, ZSTD(1)), row UInt32 CODEC(DoubleDelta, ZSTD(1)),
    run_id LowCardinality(String),
    attempt UInt32 COMMENT 'from 1; one more with each resume and rollback',
    metric LowCardinality(String) COMMENT 'with its unit, such as step_seconds',
    site LowCardinality(String) COMMENT 'site or seed; empty for the whole model',
    step UInt64 CODEC(DoubleDelta, ZSTD(1)),
    epoch UInt32 CODEC(DoubleDelta, ZSTD(1)) COMMENT 'pass over the data, from 0',
    time DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'the trainer''s clock',
    value Float64 CODEC(Gorilla, ZSTD(1))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (run_id, metric, site, attempt, step, log, partition, offset, row)
TTL toDateTime(time) + INTERVAL 90 DAY;

CREATE TABLE telemetry_batches (
    log LowCardinality(String), partition UInt16, offset UInt64 CODEC(DoubleDelta, ZSTD(1)),
    run_id String,
    attempt UInt32,
    epoch UInt32 COMMENT 'of the run''s writer',
    time DateTime64(6, 'UTC'),
    rows UInt32,
    dropped UInt64 COMMENT 'measurements that the trainer had to drop since its last batch',
    error String COMMENT 'why it could not be read, if so'
) ENGINE = ReplacingMergeTree
ORDER BY (log, partition, offset);

CREATE TABLE telemetry_minutes (
    run_id LowCardinality(String), attempt UInt32, metric LowCardinality(String), site LowCardinality(String),
    minute DateTime('UTC'),
    n SimpleAggregateFunction(sum, UInt64),
    total SimpleAggregateFunction(sum, Float64),
    least SimpleAggregateFunction(min, Float64),
    most SimpleAggregateFunction(max, Float64),
    quantiles AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64),
    first_step SimpleAggregateFunction(min, UInt64), last_step SimpleAggregateFunction(max, UInt64),
    earliest SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'time of its first row'
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (run_id, metric, site, attempt, minute)
TTL minute + INTERVAL 2 YEAR;

CREATE MATERIALIZED VIEW telemetry_minutes_filling TO telemetry_minutes AS
SELECT run_id, attempt, metric, site, toStartOfMinute(toDateTime(time, 'UTC')) AS minute,
    count() AS n, sum(value) AS total, min(value) AS least, max(value) AS most,
    quantilesTDigestState(0.5, 0.95, 0.99)(value) AS quantiles,
    min(step) AS first_step, max(step) AS last_step, min(time) AS earliest
FROM telemetry
GROUP BY run_id, attempt, metric, site, minute;

CREATE TABLE telemetry_epochs (
    run_id LowCardinality(String), attempt UInt32, metric LowCardinality(String), site LowCardinality(String),
    epoch UInt32 COMMENT 'pass over the data, from 0',
    n SimpleAggregateFunction(sum, UInt64),
    total SimpleAggregateFunction(sum, Float64),
    least SimpleAggregateFunction(min, Float64),
    most SimpleAggregateFunction(max, Float64),
    quantiles AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64),
    first_step SimpleAggregateFunction(min, UInt64), last_step SimpleAggregateFunction(max, UInt64),
    earliest SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'time of its first row'
) ENGINE = AggregatingMergeTree
ORDER BY (run_id, metric, site, attempt, epoch);

CREATE MATERIALIZED VIEW telemetry_epochs_filling TO telemetry_epochs AS
SELECT run_id, attempt, metric, site, epoch,
    count() AS n, sum(value) AS total, min(value) AS least, max(value) AS most,
    quantilesTDigestState(0.5, 0.95, 0.99)(value) AS quantiles,
    min(step) AS first_step, max(step) AS last_step, min(time) AS earliest
FROM telemetry
GROUP BY run_id, attempt, metric, site, epoch;

CREATE VIEW measurements AS
SELECT telemetry.*
FROM telemetry
JOIN attempts ON attempts.run_id = telemetry.run_id AND attempts.attempt = telemetry.attempt
WHERE telemetry.step BETWEEN attempts.from_step AND attempts.to_step;

CREATE VIEW measured_minutes AS
SELECT
    run_id, attempt, metric, site, minute,
    sum(telemetry_minutes.n) AS n,
    sum(telemetry_minutes.total) AS total,
    min(telemetry_minutes.least) AS least,
    max(telemetry_minutes.most) AS most,
    quantilesTDigestMerge(0.5, 0.95, 0.99)(telemetry_minutes.quantiles) AS quantiles
FROM telemetry_minutes
JOIN attempts USING (run_id, attempt)
GROUP BY run_id, attempt, metric, site, minute
HAVING min(first_step) >= any(from_step) AND max(last_step) <= any(to_step)
UNION ALL
-- Of a bucket that its attempt owns a part of, this part, as long as its rows are there.
SELECT
    run_id, attempt, metric, site, minute,
    count() AS n, sum(value) AS total, min(value) AS least, max(value) AS most,
    quantilesTDigest(0.5, 0.95, 0.99)(value) AS quantiles
FROM (SELECT run_id, attempt, metric, site, toStartOfMinute(toDateTime(time, 'UTC')) AS minute, step, value FROM telemetry) AS measured
JOIN (
    SELECT run_id, attempt, metric, site, minute, any(from_step) AS first_owned, any(to_step) AS last_owned
    FROM telemetry_minutes
    JOIN attempts USING (run_id, attempt)
    GROUP BY run_id, attempt, metric, site, minute
    HAVING (min(first_step) < first_owned OR max(last_step) > last_owned)
        AND min(first_step) <= last_owned AND max(last_step) >= first_owned
) AS cut USING (run_id, attempt, metric, site, minute)
WHERE step BETWEEN first_owned AND last_owned
GROUP BY run_id, attempt, metric, site, minute;

CREATE VIEW measured_epochs AS
SELECT
    run_id, attempt, metric, site, epoch,
    sum(telemetry_epochs.n) AS n,
    sum(telemetry_epochs.total) AS total,
    min(telemetry_epochs.least) AS least,
    max(telemetry_epochs.most) AS most,
    quantilesTDigestMerge(0.5, 0.95, 0.99)(telemetry_epochs.quantiles) AS quantiles
FROM telemetry_epochs
JOIN attempts USING (run_id, attempt)
GROUP BY run_id, attempt, metric, site, epoch
HAVING min(first_step) >= any(from_step) AND max(last_step) <= any(to_step)
UNION ALL
-- Of a bucket that its attempt owns a part of, this part, as long as its rows are there.
SELECT
    run_id, attempt, metric, site, epoch,
    count() AS n, sum(value) AS total, min(value) AS least, max(value) AS most,
    quantilesTDigest(0.5, 0.95, 0.99)(value) AS quantiles
FROM (SELECT run_id, attempt, metric, site, epoch, step, value FROM telemetry) AS measured
JOIN (
    SELECT run_id, attempt, metric, site, epoch, any(from_step) AS first_owned, any(to_step) AS last_owned
    FROM telemetry_epochs
    JOIN attempts USING (run_id, attempt)
    GROUP BY run_id, attempt, metric, site, epoch
    HAVING (min(first_step) < first_owned OR max(last_step) > last_owned)
        AND min(first_step) <= last_owned AND max(last_step) >= first_owned
) AS cut USING (run_id, attempt, metric, site, epoch)
WHERE step BETWEEN first_owned AND last_owned
GROUP BY run_id, attempt, metric, site, epoch;
