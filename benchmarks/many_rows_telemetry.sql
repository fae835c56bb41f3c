-- What is measured of the long run {r}: see many_rows.sql.

INSERT INTO telemetry (log, partition, offset, row, run_id, attempt, metric, site, step, epoch, time, value)
SELECT
    'many', {r:UInt32} % 12, {r:UInt64} * 1000000 + attempt * 200000 + intDiv(step, 800), (step % 800) * 64 + item,
    concat('run-', toString({r:UInt32})), attempt, found.1, found.2, step, intDiv(step, 1000), time,
    if(step > attempt * intDiv({steps:UInt64}, 4), 1000, found.3)
FROM (
    SELECT
        number, attempt, step,
        (SELECT toDateTime64(time, 3, 'UTC') FROM runs WHERE run_id = concat('run-', toString({r:UInt32})))
            + toIntervalMillisecond(step * 200 + attempt * 60000) AS time,
        (step - 1) % intDiv({steps:UInt64}, 8) AS within,
        intDiv(step - 1, intDiv({steps:UInt64}, 8)) AS k,
        within >= intDiv({steps:UInt64}, 32) AND within < 3 * intDiv({steps:UInt64}, 32) AS alive,
        concat('layer.', toString(k % 4), '#', toString(intDiv(k, 4) + 1)) AS seed,
        {noise:Float64} * (cityHash64(number) / exp2(64) - 0.5) AS noise,
        arrayConcat(
            [('loss', '', step / 1000 + noise), ('step_seconds', '', if(alive, 0.25, 0.125) + noise / 100),
                ('learning_rate', '', 0.001)],
            if(alive, [('gradient_norm', seed, 1 + noise), ('alpha', seed, within / intDiv({steps:UInt64}, 8))],
                CAST([], 'Array(Tuple(String, String, Float64))')),
            if(step % 20 = 0,
                arrayConcat(
                    arrayMap(i -> ('weight_norm', concat('layer.', toString(i)), i + noise), range(16)),
                    arrayMap(i -> ('gradient_norm', concat('layer.', toString(i)), i / 10 + noise), range(16))),
                CAST([], 'Array(Tuple(String, String, Float64))'))
        ) AS all
    FROM (
        SELECT
            number,
            intDiv({steps:UInt64}, 4) + {beyond:UInt64} AS executed,
            toUInt32(intDiv(number, executed) + 1) AS attempt,
            (attempt - 1) * intDiv({steps:UInt64}, 4) + number % executed + 1 AS step
        FROM numbers({steps:UInt64} + 4 * {beyond:UInt64})
    )
    WHERE step <= {steps:UInt64}
)
ARRAY JOIN all AS found, arrayEnumerate(all) AS item;

INSERT INTO telemetry_batches (log, partition, offset, run_id, attempt, epoch, time, rows, dropped, error)
SELECT log, partition, offset, run_id, any(attempt), 1, any(time), count(), 0, ''
FROM telemetry
WHERE run_id = concat('run-', toString({r:UInt32}))
GROUP BY log, partition, offset, run_id;
