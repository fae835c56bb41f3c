-- Each attempt with how far it came, whoever owns those steps now, and when it was last heard of.
SELECT
    attempts.attempt AS attempt,
    attempts.epoch AS epoch,
    attempts.cause AS cause,
    attempts.time AS time,
    attempts.from_step AS from_step,
    if(attempts.to_step > 9e18, NULL, attempts.to_step) AS to_step,
    heard.last AS last,
    reached.step AS reached
FROM attempts
LEFT JOIN (
    SELECT started.attempt AS attempt, max(events.time) AS last
    FROM (
        SELECT key, sequence, time FROM events FINAL WHERE topic = 'esper.runs' AND key = {run:String}
    ) AS events
    ASOF JOIN (
        SELECT run_id, sequence, row_number() OVER (ORDER BY sequence) AS attempt
        FROM attempt_starts FINAL
        WHERE run_id = {run:String}
    ) AS started ON events.key = started.run_id AND events.sequence >= started.sequence
    GROUP BY attempt
) AS heard USING (attempt)
LEFT JOIN (
    SELECT attempt, max(step) AS step
    FROM telemetry
    WHERE run_id = {run:String} AND metric = 'loss' AND site = ''
    GROUP BY attempt
) AS reached USING (attempt)
WHERE attempts.run_id = {run:String}
ORDER BY attempt
