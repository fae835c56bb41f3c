-- How long do decisions take: the median, and the slowest in twenty and in a hundred?
-- run='' of this run alone
-- Of the trainer's own policy: from when it is asked. Of one elsewhere: from when the boundary was on the log until its
-- proposal arrived; several boundaries may pass meanwhile.
SELECT
    policy,
    version,
    if(issuer = '', 'trainer', issuer) AS decided_by,
    count() AS decisions,
    count(seconds) AS measured,
    round(quantileExactInclusive(0.5)(seconds) * 1000, 3) AS p50_ms,
    round(quantileExactInclusive(0.95)(seconds) * 1000, 3) AS p95_ms,
    round(quantileExactInclusive(0.99)(seconds) * 1000, 3) AS p99_ms,
    round(max(seconds) * 1000, 3) AS longest_ms
FROM decisions
WHERE outcome = 'made' AND ({run:String} = '' OR run_id = {run:String})
GROUP BY policy, version, issuer
ORDER BY policy, version, decided_by
