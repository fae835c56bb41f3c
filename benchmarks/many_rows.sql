-- Runs whose every number follows from its place: {measured} long ones with telemetry, {others} as long as the demo's.
--
-- Of a run's steps each eighth has a seed: it is born after a quarter of the eighth and is gone after three, and every
-- fourth is culled. A step takes 0.125 s, 0.25 s while a seed lives, and its loss is its number / 1000, plus noise. A
-- long run is executed by four attempts, and each but the last executes steps beyond its end, which the next one
-- executes again: what is measured of them is 1000.

CREATE TABLE made ENGINE = Memory AS
SELECT
    number AS r,
    concat('run-', toString(number)) AS run_id,
    number < {measured:UInt32} AS long,
    toUInt64(if(long, {steps:UInt64}, 3200)) AS steps,
    -- The newest ended an hour ago; a measured one takes some hours, which may be those of two days.
    toDateTime64(now() - 7200 - intDiv({steps:UInt64} * 3, 8) - (number % 20) * 43200, 6, 'UTC') AS began
FROM numbers({measured:UInt32} + {others:UInt32});

CREATE TABLE made_seeds ENGINE = Memory AS
SELECT
    r, run_id, steps, began,
    arrayJoin(range(8)) AS k,
    concat('layer.', toString(k % 4)) AS site,
    concat(site, '#', toString(intDiv(k, 4) + 1)) AS seed,
    ['low_rank@1', 'mlp@2', 'conv@3'][(r + k) % 3 + 1] AS blueprint,
    hex(SHA256(concat(run_id, seed))) AS kernel,
    k * intDiv(steps, 8) + intDiv(steps, 32) AS born,
    born + intDiv(steps, 16) AS gone
FROM made;

INSERT INTO runs (log, partition, offset, row, run_id, time, task, seed, parameters, sites, optimizer, device, settings)
SELECT 'many', r % 12, r * 1000000, 0, run_id, began, 'many', r, 100000, 16, 'AdamW', 'cpu', '{}' FROM made;

INSERT INTO attempt_starts (log, partition, offset, row, run_id, sequence, time, epoch, from_step, cause)
SELECT 'many', r % 12, r * 1000000, 1, run_id, 1, began, 1, 1, 'started' FROM made;

INSERT INTO attempt_starts (log, partition, offset, row, run_id, sequence, time, epoch, from_step, cause)
SELECT 'many', r % 12, r * 1000000 + 1, 0, run_id, 16005, began + 1, 1, 1601, 'rolled back'
FROM made WHERE NOT long AND r % 10 = 0;

INSERT INTO attempt_starts (log, partition, offset, row, run_id, sequence, time, epoch, from_step, cause)
SELECT
    'many', r % 12, r * 1000000 + 1 + a, 0, run_id, (a * intDiv(steps, 4) + {beyond:UInt64}) * 10 + 5, began + a, 1 + a,
    a * intDiv(steps, 4) + 1, 'resumed'
FROM (SELECT *, arrayJoin([1, 2, 3]) AS a FROM made WHERE long);

INSERT INTO resumes
    (log, partition, offset, row, run_id, sequence, time, epoch, checkpoint, inexact, reopened, seconds)
SELECT log, partition, offset, row, run_id, sequence, time, epoch, from_step - 1, false, false, 0.5
FROM attempt_starts WHERE cause = 'resumed';

INSERT INTO rollbacks (log, partition, offset, row, run_id, sequence, time, step, to_step, cause, removed)
SELECT log, partition, offset, row, run_id, sequence - 1, time, 1600, 1550, 'the loss is not finite', []
FROM attempt_starts WHERE cause = 'rolled back';

INSERT INTO run_ends (log, partition, offset, row, run_id, sequence, time, status, step, loss, detail, test)
SELECT
    'many', r % 12, r * 1000000 + 999999, 0, run_id, steps * 10 + 9, began + intDiv(steps, 4), 'completed', steps,
    steps / 1000, '', map('accuracy', 0.9)
FROM made;

INSERT INTO boundaries
    (log, partition, offset, row, run_id, sequence, time, step, epoch, batch, loss, learning_rate, seconds, digest)
SELECT
    'many', r % 12, r * 1000000 + 100 + step, 0, run_id, step * 10, began + toIntervalMillisecond(step * 200), step,
    intDiv(step, 1000), step % 1000, step / 1000, 0.001, 0.5, hex(SHA256(toString(step)))
FROM (SELECT *, arrayJoin(range(50, steps + 1, 50)) AS step FROM made);

INSERT INTO site_health
    (log, partition, offset, row, run_id, sequence, step, site_index, activation_mean, activation_variance,
    dormant_share, gradient_norm, gradient_to_weight)
SELECT
    log, partition, offset, 1 + i, run_id, sequence, step, i, sin(offset + i), cos(offset + i), (i % 10) / 10,
    1 / (1 + i), 0.01
FROM (SELECT *, arrayJoin(range(16)) AS i FROM boundaries);

INSERT INTO sites (log, partition, offset, row, run_id, sequence, site_index, site, kind, dims, reason)
SELECT 'many', r % 12, r * 1000000, 2 + i, run_id, 1, i, concat('layer.', toString(i)), 'Linear', [64, 64], ''
FROM (SELECT *, arrayJoin(range(16)) AS i FROM made);

INSERT INTO decisions
    (log, partition, offset, row, run_id, sequence, time, step, decision, outcome, policy, version, action, propensity,
    alternatives, reason, seconds)
SELECT
    log, partition, offset + 1, 0, run_id, sequence + 1, time, step, concat(toString(step), '/1'), 'made', 'heuristic',
    '1', if(step % 400 = 100, 'germinate', 'wait'), 0.9, 17, 'a sentence on why this was the best', step % 100 / 1000
FROM boundaries;

INSERT INTO seed_transitions
    (log, partition, offset, row, run_id, sequence, time, step, site, seed, blueprint, kernel, from_stage, stage, cause,
    gate)
SELECT
    'many', r % 12, r * 1000000 + 2 + step, 2, run_id, step * 10 + 2, began + toIntervalMillisecond(step * 200), step,
    site, seed, blueprint, kernel, stages[place - 1], stages[place], if(place = 2, 'decision', 'gate'), ''
FROM (
    SELECT
        *,
        if(k % 4 = 3,
            ['DORMANT', 'GERMINATED', 'TRAINING', 'CULLED'],
            ['DORMANT', 'GERMINATED', 'TRAINING', 'BLENDING', 'HOLDING', 'FOSSILISED']) AS stages,
        arrayJoin(range(2, length(stages) + 1)) AS place,
        if(place = length(stages), gone, born + (place - 2) * intDiv(gone - born, 5)) AS step
    FROM made_seeds
);

INSERT INTO gates
    (log, partition, offset, row, run_id, sequence, time, step, site, seed, blueprint, kernel, gate, passed, reason, n,
    mean, s)
SELECT
    log, partition, offset, 3, run_id, sequence, time, step, site, seed, blueprint, kernel, 'verdict',
    stage != 'CULLED', '', 1000, 0.01, 0.1
FROM seed_transitions WHERE from_stage != 'DORMANT';

INSERT INTO trials (log, partition, offset, row, run_id, sequence, step, seed, fold, n, mean, s)
SELECT 'many', r % 12, r * 1000000 + 100 + t, 20 + k, run_id, t, t, seed, 1, 1000, 0.01, 0.1
FROM (SELECT *, arrayJoin(range(50 * intDiv(born, 50) + 50, gone, 50)) AS t FROM made_seeds);

INSERT INTO kernels
    (log, partition, offset, row, time, event, blueprint, kernel, kind, dims, parameters, bytes, reason, seconds)
SELECT
    'many', r % 12, r * 1000000 + k, 4, began, 'compiled', blueprint, kernel, 'Linear', [64, 64], 1000, 4000, '', 0.02
FROM made_seeds;

INSERT INTO checkpoints
    (log, partition, offset, row, run_id, sequence, time, step, event, manifest, reason, bytes, seconds)
SELECT log, partition, offset, 5, run_id, sequence + 3, time, step, 'committed', digest, 'steps', 400000, 0.05
FROM boundaries WHERE step % 500 = 0;

INSERT INTO events (log, topic, partition, offset, key, type, sequence, epoch, time, writer, id, causes, payload, error)
SELECT
    log, 'esper.runs', partition, offset, run_id, 'BoundaryReached', sequence, 1, time, 'trainer', generateUUIDv4(), [],
    concat('{"step":', toString(step), ',"loss":', toString(loss), ',"learning_rate":0.001,"digest":"', digest,
        '","sites":null,"health":null,"trials":[],"measured":{"seconds":0.5}}'), ''
FROM boundaries;

INSERT INTO events (log, topic, partition, offset, key, type, sequence, epoch, time, writer, id, causes, payload, error)
SELECT
    log, 'esper.runs', partition, offset, run_id, 'DecisionMade', sequence, 1, time, 'trainer', generateUUIDv4(), [],
    concat('{"step":', toString(step), ',"policy":"heuristic","version":"1","action":"', action,
        '","propensity":0.9,"alternatives":[],"reason":"', reason, '","issuer":null}'), ''
FROM decisions;

INSERT INTO events (log, topic, partition, offset, key, type, sequence, epoch, time, writer, id, causes, payload, error)
SELECT
    log, 'esper.runs', partition, offset, run_id, 'SeedTransitioned', sequence, 1, time, 'trainer', generateUUIDv4(),
    [], concat('{"site":"', site, '","seed":"', seed, '","to_stage":"', stage, '","kernel":"', kernel, '"}'), ''
FROM seed_transitions;

INSERT INTO events (log, topic, partition, offset, key, type, sequence, epoch, time, writer, id, causes, payload, error)
SELECT
    log, 'esper.runs', partition, offset + 500000, run_id, 'CheckpointCommitted', sequence - 1, 1, time, 'trainer',
    generateUUIDv4(), [], '{}', ''
FROM resumes;

DROP TABLE made_seeds;

DROP TABLE made;
