-- How far the run is, by all that it has said.
SELECT
    count() AS events,
    min(time) AS first,
    max(time) AS last,
    greatest(
        (SELECT max(step) FROM boundaries WHERE run_id = {run:String}),
        (SELECT max(step) FROM run_ends WHERE run_id = {run:String}),
        (SELECT max(step) FROM measurements WHERE run_id = {run:String} AND metric = 'loss' AND site = '')
    ) AS steps
FROM events FINAL
WHERE topic = 'esper.runs' AND key = {run:String}
