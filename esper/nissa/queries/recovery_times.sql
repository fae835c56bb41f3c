-- How long was each recovery, from the last event before it to the first boundary after it?
-- run='' of this run alone
-- After a crash or a pause: away until the run was resumed, of which the resume itself took `loading`; then `again`
-- until there was a new boundary, with the steps that were run a second time. After a rollback training went on at
-- once. Where the log's writer was lost and replaced, training waited. Empty: not known, or not yet.
WITH
    begun AS (
        SELECT
            run_id, sequence, time, checkpoint AS from_step,
            if(reopened, 'lost writer', 'crash') AS cause, seconds AS loading
        FROM resumes
        WHERE {run:String} = '' OR run_id = {run:String}
        UNION ALL
        SELECT run_id, sequence, time, to_step AS from_step, 'rollback' AS cause, NULL AS loading
        FROM rollbacks
        WHERE {run:String} = '' OR run_id = {run:String}
    ),
    before AS (
        SELECT key AS run_id, sequence + 1 AS next_sequence, argMax(time, epoch) AS last, argMax(type, epoch) AS type
        FROM events
        WHERE topic = 'esper.runs' AND (key, sequence) IN (SELECT run_id, sequence - 1 FROM begun)
        GROUP BY key, sequence
    )
SELECT
    begun.run_id AS run_id,
    begun.time AS time,
    if(type = 'RunPaused', 'pause', cause) AS after,
    from_step,
    if(cause = 'rollback', NULL, round(dateDiff('microsecond', last, begun.time) / 1e6, 3)) AS away_seconds,
    round(loading, 3) AS loading_seconds,
    if(reached = 0, NULL, round(dateDiff('microsecond', begun.time, next_time) / 1e6, 3)) AS again_seconds,
    round(ifNull(away_seconds, 0) + again_seconds, 3) AS seconds
FROM begun
LEFT JOIN before ON begun.run_id = before.run_id AND begun.sequence = before.next_sequence
ASOF LEFT JOIN (
    SELECT run_id, sequence AS reached, time AS next_time
    FROM boundaries
    WHERE {run:String} = '' OR run_id = {run:String}
) AS following ON begun.run_id = following.run_id AND begun.sequence < following.reached
ORDER BY run_id, begun.sequence
