CREATE TABLE facts (
    run TEXT NOT NULL,                 -- that found it out
    endpoint TEXT NOT NULL,            -- its name in the recipe
    base_url TEXT NOT NULL,
    model TEXT NOT NULL,               -- as requested
    json_schema INTEGER NOT NULL,      -- whether replies fit a JSON schema that is sent
    created REAL NOT NULL,             -- seconds since 1970
    PRIMARY KEY (run, endpoint)
);
