-- What share of the training time does Esper take between the steps?
-- run='' of this run alone
-- Between a trainer's first boundary and its last: seconds of the clock, of these in steps (as far as telemetry tells),
-- and between steps in Esper: boundaries, digests, gates, decisions, kernels, copies for checkpoints, waits for the
-- log. The rest is the program's own, such as loading data.
WITH
    spans AS (
        SELECT
            run_id,
            max(step) - min(step) AS steps,
            greatest(dateDiff('microsecond', min(time), max(time)), 0) / 1e6 AS whole,
            sum(seconds) - argMin(coalesce(seconds, 0), step) AS esper
        FROM boundaries
        ASOF LEFT JOIN (
            SELECT run_id, sequence AS began
            FROM attempt_starts
            WHERE cause != 'rolled back' AND ({run:String} = '' OR run_id = {run:String})
        ) AS trainers ON boundaries.run_id = trainers.run_id AND boundaries.sequence > trainers.began
        WHERE {run:String} = '' OR run_id = {run:String}
        GROUP BY run_id, began
    )
SELECT
    run_id,
    sum(spans.steps) AS steps,
    round(sum(whole), 3) AS seconds,
    round(steps * any(step_seconds), 3) AS in_steps,
    round(sum(esper), 3) AS in_esper,
    round(sum(esper) / nullIf(sum(whole), 0), 4) AS share
FROM spans
LEFT JOIN (
    SELECT run_id, toNullable(avg(value)) AS step_seconds
    FROM measurements
    WHERE metric = 'step_seconds' AND ({run:String} = '' OR run_id = {run:String})
    GROUP BY run_id
) AS measured USING (run_id)
GROUP BY run_id
ORDER BY run_id
