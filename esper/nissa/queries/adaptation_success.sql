-- How many adaptations succeed, and how many end in a rollback?
-- run='' of this run alone
-- Rates are of the seeds whose fate is sealed. Success: the seed was kept. Rolled back: the governor's rollback culled
-- it, or undid its birth. Undone: it was culled when it was part of the host already, which went back for it.
SELECT
    run_id,
    any(decided) AS decided,
    any(refused) AS no_kernel,
    countIf(seed != '') AS germinated,
    countIf(stage = 'FOSSILISED') AS kept,
    countIf(stage IN ('CULLED', 'REMOVED')) AS lost,
    countIf(stage IN ('CULLED', 'REMOVED') AND ended_by = 'rollback') AS rolled_back,
    countIf(stage = 'CULLED' AND ended_from IN ('BLENDING', 'HOLDING')) AS undone,
    round(kept / nullIf(kept + lost, 0), 3) AS success_rate,
    round(rolled_back / nullIf(kept + lost, 0), 3) AS rollback_rate,
    any(backs) AS rollbacks,
    round(1000 * rollbacks / nullIf(any(reached), 0), 3) AS rollbacks_per_1000_steps
FROM (SELECT run_id FROM runs WHERE {run:String} = '' OR run_id = {run:String}) AS asked
LEFT JOIN (SELECT * FROM seeds WHERE {run:String} = '' OR run_id = {run:String}) AS grown USING (run_id)
LEFT JOIN (
    SELECT
        run_id,
        countIf(action = 'germinate') AS decided,
        countIf(outcome = 'rejected' AND startsWith(reason, 'kernel')) AS refused
    FROM decisions
    WHERE {run:String} = '' OR run_id = {run:String}
    GROUP BY run_id
) AS choices USING (run_id)
LEFT JOIN (
    SELECT run_id, count() AS backs FROM rollbacks WHERE {run:String} = '' OR run_id = {run:String} GROUP BY run_id
) AS went_back USING (run_id)
LEFT JOIN (
    SELECT run_id, max(step) AS reached FROM boundaries WHERE {run:String} = '' OR run_id = {run:String} GROUP BY run_id
) AS ends USING (run_id)
GROUP BY run_id
ORDER BY run_id
