-- Every event of every topic but telemetry, and typed tables of what the events say.
--
-- A row knows the record that it comes from: log, partition, offset, and which row of that record it is. These four end
-- each sorting key, so that the same record written twice is one row. `events` is written last: what it holds of a
-- partition is what has been done.

CREATE TABLE events (
    log LowCardinality(String) COMMENT 'id of the log: of the SQLite file, or of the topic on its cluster',
    topic LowCardinality(String) COMMENT 'as Esper names it, without a prefix',
    partition UInt16,
    offset UInt64 CODEC(DoubleDelta, ZSTD(1)),
    key String COMMENT 'run id; on esper.assets the blueprint''s id',
    type LowCardinality(String) COMMENT 'short name of the event''s schema; empty: it could not be read',
    sequence UInt64 CODEC(DoubleDelta, ZSTD(1)) COMMENT 'number within the run, from 1; 0 where events have none',
    epoch UInt32 COMMENT 'of the run''s writer, from 1; 0 where events have none',
    time DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'the writer''s clock',
    writer LowCardinality(String),
    id UUID,
    causes Array(UUID) COMMENT 'ids of the events that led to this one',
    payload String CODEC(ZSTD(3)) COMMENT 'content as JSON; bytes as hex digits; not a number as null',
    error String COMMENT 'why it could not be read, if so'
) ENGINE = ReplacingMergeTree
PARTITION BY topic
ORDER BY (topic, key, sequence, log, partition, offset);

CREATE TABLE runs (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    time DateTime64(6, 'UTC') COMMENT 'when it began',
    task String COMMENT 'of a built-in task; empty for a program of one''s own',
    seed Int64 COMMENT 'of the random generators',
    parameters UInt64 COMMENT 'numbers in the model''s parameters and buffers',
    sites UInt32,
    optimizer LowCardinality(String),
    device LowCardinality(String),
    settings String CODEC(ZSTD(3)) COMMENT 'JSON'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, log, partition, offset, row);

CREATE TABLE run_ends (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    status LowCardinality(String) COMMENT 'completed, failed, cancelled or paused',
    step UInt64,
    loss Nullable(Float64) COMMENT 'the last mini-batch''s; of a completed run',
    detail String COMMENT 'cause or reason',
    test Map(LowCardinality(String), Float64) COMMENT 'what the program measured at the end'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE attempt_starts (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    epoch UInt32 COMMENT 'of the run''s writer',
    from_step UInt64 COMMENT 'the first step that it executes',
    cause LowCardinality(String) COMMENT 'started, resumed or rolled back'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE VIEW attempts AS
SELECT
    run_id, attempt, epoch, cause, time, from_step,
    -- What a later attempt executes again is not this one's any more.
    if(count() OVER later = 0, toUInt64(-1), min(from_step) OVER later - 1) AS to_step
FROM (
    SELECT run_id, epoch, cause, time, from_step, row_number() OVER (PARTITION BY run_id ORDER BY sequence) AS attempt
    FROM (
        -- A run that was copied to another log began no more often.
        SELECT run_id, sequence, any(epoch) AS epoch, any(cause) AS cause, min(time) AS time, any(from_step) AS from_step
        FROM attempt_starts
        GROUP BY run_id, sequence
    )
)
WINDOW later AS (PARTITION BY run_id ORDER BY attempt ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING);

CREATE TABLE boundaries (
    log LowCardinality(String), partition UInt16, offset UInt64 CODEC(DoubleDelta, ZSTD(1)), row UInt32,
    run_id String,
    sequence UInt64 CODEC(DoubleDelta, ZSTD(1)),
    time DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    step UInt64 CODEC(DoubleDelta, ZSTD(1)),
    epoch UInt32 COMMENT 'pass over the data, from 0',
    batch UInt32 COMMENT 'within the epoch',
    loss Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'mean training loss since the boundary before',
    learning_rate Float64 CODEC(Gorilla, ZSTD(1)),
    seconds Nullable(Float64) COMMENT 's; what Esper has taken between steps since the boundary before',
    digest String COMMENT 'SHA-256 of the whole state'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE site_health (
    log LowCardinality(String), partition UInt16, offset UInt64 CODEC(DoubleDelta, ZSTD(1)), row UInt32,
    run_id String,
    sequence UInt64 CODEC(DoubleDelta, ZSTD(1)),
    step UInt64 CODEC(DoubleDelta, ZSTD(1)),
    site_index UInt32 COMMENT 'in the run''s table of sites; `sites` has the names',
    activation_mean Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    activation_variance Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    dormant_share Nullable(Float64) CODEC(Gorilla, ZSTD(1)) COMMENT 'share of units that are silent, 0 to 1',
    gradient_norm Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    gradient_to_weight Nullable(Float64) CODEC(Gorilla, ZSTD(1)) COMMENT 'norm of the gradient by that of the weight',
    effective_rank Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    correlation Nullable(Float64) CODEC(Gorilla, ZSTD(1)) COMMENT 'of units with each other, 0 to 1',
    bottleneck Nullable(Float64) CODEC(Gorilla, ZSTD(1))
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, site_index, step, sequence, log, partition, offset, row);

CREATE TABLE sites (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64 COMMENT 'of the event that says so; it holds until the next',
    site_index UInt32,
    site String,
    kind LowCardinality(String),
    dims Array(Int64) COMMENT '[in, out], of a convolution [in, out, kernel_h, kernel_w, stride_h, stride_w]',
    reason String COMMENT 'why no seed may grow there; empty where one may'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, site_index, log, partition, offset, row);

CREATE TABLE seed_transitions (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    step UInt64,
    site String,
    seed String COMMENT 'site#n',
    blueprint LowCardinality(String),
    kernel String COMMENT 'SHA-256',
    from_stage LowCardinality(String),
    stage LowCardinality(String) COMMENT 'where it went',
    cause LowCardinality(String) COMMENT 'decision, gate, command or rollback',
    gate LowCardinality(String) COMMENT 'the gate that was asked; empty without one'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE gates (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    step UInt64,
    site String,
    seed String,
    blueprint LowCardinality(String),
    kernel String,
    gate LowCardinality(String),
    passed Bool,
    reason String,
    fold Nullable(Int64) COMMENT 'of the gate''s examples, from 0',
    n Nullable(Int64) COMMENT 'examples',
    mean Nullable(Float64) COMMENT 'loss without the seed less loss with it, per example',
    s Nullable(Float64) COMMENT 'standard deviation of that over examples',
    sigma Nullable(Float64) COMMENT 'training noise: standard deviation of the mean over the last measurements',
    z Nullable(Float64) COMMENT 'standard errors between mean and bound',
    bound Nullable(Float64) COMMENT 'confidence bound of the mean: the lower one, in audits the upper one',
    delta Nullable(Float64) COMMENT 'least gain; negative for an audit',
    rent Nullable(Float64) COMMENT 'least gain for the parameters added; the bound has to exceed delta + rent',
    ablation Nullable(Float64) COMMENT 'mean loss without the seed less that with it; decides nothing',
    gradient_norm Nullable(Float64),
    audit_fold Nullable(Int64) COMMENT 'reserved for the audit'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE trials (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    step UInt64,
    seed String,
    fold Int64, n Int64 COMMENT 'examples',
    mean Float64 COMMENT 'loss without the seed less loss with it, per example',
    s Float64,
    gradient_norm Nullable(Float64)
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, seed, step, sequence, log, partition, offset, row);

CREATE TABLE decisions (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    step UInt64,
    decision String COMMENT 'step/n',
    outcome LowCardinality(String) COMMENT 'made or rejected',
    policy LowCardinality(String), version LowCardinality(String),
    action LowCardinality(String),
    site String, blueprint LowCardinality(String), seed String,
    propensity Nullable(Float64) COMMENT 'probability with which it was taken',
    alternatives UInt32 COMMENT 'actions that were allowed',
    reason String,
    issuer LowCardinality(String) COMMENT 'of the proposal; empty where the trainer decided',
    seconds Nullable(Float64) COMMENT 's; from the boundary to the decision'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE checkpoints (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    step UInt64,
    event LowCardinality(String) COMMENT 'committed or retired',
    manifest String COMMENT 'SHA-256',
    reason LowCardinality(String),
    bytes UInt64 COMMENT 'newly written for it',
    seconds Nullable(Float64) COMMENT 's; writing it'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE resumes (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    epoch UInt32,
    checkpoint UInt64 COMMENT 'the step that it went on from',
    inexact Bool,
    reopened Bool COMMENT 'the same trainer went on with another writer: no step was executed again',
    seconds Nullable(Float64) COMMENT 's; from the call until the run stood where it goes on'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE rollbacks (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    run_id String,
    sequence UInt64,
    time DateTime64(6, 'UTC'),
    step UInt64,
    to_step UInt64 COMMENT 'the checkpoint that it went back to',
    cause String,
    removed Array(String) COMMENT 'seeds born since'
) ENGINE = ReplacingMergeTree
ORDER BY (run_id, sequence, log, partition, offset, row);

CREATE TABLE kernels (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    time DateTime64(6, 'UTC'),
    event LowCardinality(String) COMMENT 'requested, compiled or rejected',
    blueprint LowCardinality(String),
    kernel String COMMENT 'SHA-256; empty unless compiled',
    kind LowCardinality(String),
    dims Array(Int64),
    parameters UInt64,
    bytes UInt64 COMMENT 'of its artefact',
    reason String,
    seconds Nullable(Float64) COMMENT 's; compiling it'
) ENGINE = ReplacingMergeTree
ORDER BY (blueprint, kernel, log, partition, offset, row);

CREATE TABLE kernel_gates (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    time DateTime64(6, 'UTC'),
    blueprint LowCardinality(String),
    kernel String,
    kind LowCardinality(String),
    dims Array(Int64),
    gate LowCardinality(String),
    passed Bool,
    reason String,
    fold Nullable(Int64), n Nullable(Int64),
    mean Nullable(Float64), s Nullable(Float64), sigma Nullable(Float64), z Nullable(Float64),
    bound Nullable(Float64), delta Nullable(Float64), rent Nullable(Float64),
    ablation Nullable(Float64), gradient_norm Nullable(Float64), audit_fold Nullable(Int64)
) ENGINE = ReplacingMergeTree
ORDER BY (blueprint, kernel, log, partition, offset, row);

CREATE TABLE blueprints (
    log LowCardinality(String), partition UInt16, offset UInt64, row UInt32,
    time DateTime64(6, 'UTC'),
    blueprint LowCardinality(String) COMMENT 'name@hash',
    name LowCardinality(String),
    version UInt32,
    kinds Array(LowCardinality(String)),
    tags Array(LowCardinality(String)),
    parents Array(String)
) ENGINE = ReplacingMergeTree
ORDER BY (blueprint, log, partition, offset, row);
