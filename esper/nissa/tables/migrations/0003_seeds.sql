-- What became of each seed.

CREATE VIEW seeds AS
SELECT
    run_id, seed,
    any(site) AS site,
    any(blueprint) AS blueprint,
    any(kernel) AS kernel,
    -- REMOVED: a rollback went back to before its birth.
    if(countIf(stands) = 0, 'REMOVED', argMaxIf(to_stage, sequence, stands)) AS stage,
    min(at_step) AS born_step,
    min(at_time) AS born_time,
    multiIf(
        stage = 'REMOVED', toNullable(argMin(undoing.3, sequence)),
        stage IN ('FOSSILISED', 'CULLED'), argMaxIf(at_step, sequence, stands),
        NULL
    ) AS ended_step,
    multiIf(
        stage = 'REMOVED', toNullable(argMin(undoing.4, sequence)),
        stage IN ('FOSSILISED', 'CULLED'), argMaxIf(at_time, sequence, stands),
        NULL
    ) AS ended_time,
    if(ended_step IS NULL, '', argMaxIf(from_stage, sequence, stands)) AS ended_from,
    multiIf(stage = 'REMOVED', 'rollback', ended_step IS NULL, '', argMaxIf(cause, sequence, stands)) AS ended_by,
    if(ended_step IS NULL, '', argMaxIf(gate, sequence, stands)) AS ended_gate
FROM (
    SELECT
        run_id, seed, site, blueprint, kernel, from_stage, cause, gate, sequence,
        stage AS to_stage, step AS at_step, time AS at_time,
        -- The first rollback after it that went back to before it; all zero if there is none, and then it stands.
        arrayFirst(back -> back.1 > sequence AND back.2 < at_step, backs) AS undoing,
        undoing.1 = 0 AS stands
    FROM seed_transitions
    LEFT JOIN (
        SELECT run_id, arraySort(groupArray((sequence, to_step, step, time))) AS backs FROM rollbacks GROUP BY run_id
    ) AS went_back USING (run_id)
)
GROUP BY run_id, seed;

-- Who decided: each version of a policy that has made decisions.
CREATE VIEW policies AS
SELECT
    policy, version,
    min(time) AS first_time,
    max(time) AS last_time,
    uniqExact(run_id) AS runs,
    count() AS decisions,
    countIf(action != 'wait') AS acted
FROM decisions FINAL
WHERE outcome = 'made'
GROUP BY policy, version;
