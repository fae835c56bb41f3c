-- What did the loss do around each germination, blending and fossilisation?
-- run='' of this run alone
-- stage='' of this stage alone: GERMINATED, BLENDING or FOSSILISED
-- window=50 steps on either side
-- Mean training loss of the `window` steps up to the one after which the seed moved, and of those that follow; from the
-- steps' own losses, or where there are none from the boundaries'. Losses that are not finite are left out.
WITH
    moves AS (
        SELECT run_id, seed, blueprint, stage, step, sequence
        FROM seed_transitions
        WHERE ({run:String} = '' OR run_id = {run:String})
            AND stage IN if({stage:String} = '', ['GERMINATED', 'BLENDING', 'FOSSILISED'], [{stage:String}])
    ),
    around AS (
        SELECT run_id, sequence, place > 0 AS later, toUInt64(moved + place) AS step
        FROM (
            SELECT run_id, sequence, toInt64(step) AS moved,
                arrayJoin(range(1 - toInt64({window:UInt32}), toInt64({window:UInt32}) + 1)) AS place
            FROM moves
        )
        WHERE moved + place > 0
    ),
    found AS (
        SELECT run_id, sequence, later, avg(loss) AS mean, count() AS n, 'steps' AS source
        FROM (
            SELECT run_id, step, value AS loss
            FROM measurements
            WHERE metric = 'loss' AND isFinite(value) AND ({run:String} = '' OR run_id = {run:String})
        ) AS losses
        JOIN around USING (run_id, step)
        GROUP BY run_id, sequence, later
        UNION ALL
        SELECT run_id, sequence, later, avg(loss) AS mean, count() AS n, 'boundaries' AS source
        FROM (
            SELECT run_id, step, loss
            FROM boundaries
            WHERE isFinite(loss) AND ({run:String} = '' OR run_id = {run:String})
        ) AS losses
        JOIN around USING (run_id, step)
        GROUP BY run_id, sequence, later
    ),
    best AS (
        SELECT run_id, sequence, source,
            avgIf(mean, NOT later) AS before, avgIf(mean, later) AS after,
            sumIf(n, NOT later) AS n_before, sumIf(n, later) AS n_after
        FROM found
        GROUP BY run_id, sequence, source
        ORDER BY source = 'steps' DESC
        LIMIT 1 BY run_id, sequence
    )
SELECT
    run_id, seed, blueprint, stage, step,
    if(n_before = 0, NULL, round(before, 4)) AS loss_before,
    if(n_after = 0, NULL, round(after, 4)) AS loss_after,
    if(n_before = 0 OR n_after = 0, NULL, round(after - before, 4)) AS change,
    n_before,
    n_after,
    source AS measured_at
FROM moves
LEFT JOIN best USING (run_id, sequence)
ORDER BY run_id, sequence
