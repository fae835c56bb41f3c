-- Decisions in order. Those to wait for the same reason, but for its numbers, are one.
SELECT
    min(sequence) AS sequence,
    min(step) AS first,
    max(step) AS last,
    count() AS boundaries,
    any(outcome) AS outcome,
    any(action) AS action,
    any(policy) AS policy,
    any(issuer) AS issuer,
    any(site) AS site,
    any(blueprint) AS blueprint,
    any(seed) AS seed,
    argMin(d.reason, d.sequence) AS reason,
    argMax(d.reason, d.sequence) AS last_reason,
    count() OVER () AS total
FROM (
    SELECT *, sum(new) OVER (ORDER BY sequence) AS block
    FROM (
        SELECT
            *,
            concat(outcome, action, replaceRegexpAll(reason, '[0-9][0-9.,]*', '#')) AS kind,
            action != 'wait' OR kind != lagInFrame(kind) OVER (ORDER BY sequence) AS new
        FROM decisions FINAL
        WHERE run_id = {run:String}
    )
) AS d
GROUP BY block
ORDER BY sequence DESC
LIMIT {entries:UInt64}
