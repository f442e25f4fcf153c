CREATE TABLE calls (
    digest BLOB NOT NULL UNIQUE,       -- of the request, see protocol.digest
    model TEXT NOT NULL,               -- as requested
    request BLOB NOT NULL,             -- compressed JSON body
    reply BLOB NOT NULL,               -- compressed, see protocol.pack
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL,
    run TEXT NOT NULL,                 -- who paid
    round INTEGER NOT NULL,
    stage TEXT NOT NULL,
    task TEXT NOT NULL,
    created REAL NOT NULL              -- seconds since 1970
);
CREATE INDEX calls_by_run ON calls (run, round, stage, task);
