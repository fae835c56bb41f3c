-- Per bucket of steps the last boundary's mean loss and learning rate.
SELECT
    intDiv(step, {width:UInt64}) * {width:UInt64} AS x,
    argMax(loss, step) AS loss,
    argMax(learning_rate, step) AS rate
FROM boundaries FINAL
WHERE run_id = {run:String}
GROUP BY x
ORDER BY x
