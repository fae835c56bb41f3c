-- What does each accepted seed cost, those that were tried in vain included?
-- run='' of this run alone
-- Of all seeds that were tried: the steps that they were alive, the seconds by which steps took longer while one was
-- (against the mean of the run's steps without any), and the seconds of compiling kernels; the parameters are those of
-- the kept ones. Then the same by the number kept. Gates are part of training_overhead. Empty: not known, or none kept.
WITH
    tried AS (
        SELECT run_id, kernel, stage, born_step, coalesce(ended_step, reached) AS last_step
        FROM seeds
        LEFT JOIN (
            SELECT run_id, max(step) AS reached
            FROM boundaries
            WHERE {run:String} = '' OR run_id = {run:String}
            GROUP BY run_id
        ) AS ends USING (run_id)
        WHERE {run:String} = '' OR run_id = {run:String}
    ),
    changes AS (
        SELECT run_id, step, sum(change) OVER (PARTITION BY run_id ORDER BY step) AS alive
        FROM (
            SELECT run_id, step, sum(change) AS change
            FROM (
                SELECT run_id, born_step AS step, 1 AS change FROM tried
                UNION ALL
                SELECT run_id, last_step AS step, -1 AS change FROM tried
            )
            GROUP BY run_id, step
        )
    ),
    slower AS (
        SELECT
            run_id,
            sumIf(value, alive > 0) - countIf(alive > 0) * avgIf(value, alive = 0) AS measured,
            -- Where not every step is measured, each stands for several.
            toNullable(measured * (max(step) - min(step) + 1) / count()) AS extra
        FROM (
            SELECT run_id, step, value
            FROM measurements
            WHERE metric = 'step_seconds' AND ({run:String} = '' OR run_id = {run:String})
        ) AS steps
        ASOF LEFT JOIN changes ON steps.run_id = changes.run_id AND steps.step > changes.step
        GROUP BY run_id
        HAVING isFinite(extra)
    ),
    compiled AS (
        SELECT kernel, avg(seconds) AS compiling, any(parameters) AS brought
        FROM kernels
        WHERE event = 'compiled'
        GROUP BY kernel
    )
SELECT
    run_id,
    count() AS tried,
    countIf(stage = 'FOSSILISED') AS kept,
    sum(last_step - born_step) AS alive_steps,
    round(any(extra), 3) AS extra_step_seconds,
    round(sum(compiling), 3) AS compile_seconds,
    sumIf(brought, stage = 'FOSSILISED') AS parameters,
    round(alive_steps / nullIf(kept, 0), 1) AS steps_per_kept,
    round((any(extra) + sum(compiling)) / nullIf(kept, 0), 3) AS seconds_per_kept,
    round(parameters / nullIf(kept, 0), 1) AS parameters_per_kept
FROM tried
LEFT JOIN compiled USING (kernel)
LEFT JOIN slower USING (run_id)
GROUP BY run_id
ORDER BY run_id
