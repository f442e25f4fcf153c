CREATE TABLE failures (
    digest BLOB NOT NULL,              -- of the request
    model TEXT NOT NULL,               -- as requested
    kind TEXT NOT NULL,                -- as in domain.completion.Failure, or "duplicate"
    message TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL,
    billed INTEGER NOT NULL,           -- 1, or 0 where the provider may have billed a call without telling
    run TEXT NOT NULL,                 -- who paid
    round INTEGER NOT NULL,
    stage TEXT NOT NULL,
    task TEXT NOT NULL,
    created REAL NOT NULL,             -- seconds since 1970
    batch TEXT NOT NULL                -- that brought it, or empty
);
CREATE INDEX failures_by_digest ON failures (digest);
CREATE UNIQUE INDEX failures_of_batches ON failures (digest, batch) WHERE batch != '';
CREATE VIEW billed AS
    SELECT model, prompt_tokens, completion_tokens, cached_tokens, cost, run, round, stage, task, created FROM calls
    UNION ALL
    SELECT model, prompt_tokens, completion_tokens, cached_tokens, cost, run, round, stage, task, created FROM failures
    WHERE billed;
