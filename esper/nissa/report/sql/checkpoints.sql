SELECT countIf(event = 'committed') AS committed, sum(bytes) AS bytes, sum(seconds) AS seconds
FROM checkpoints FINAL
WHERE run_id = {run:String}
