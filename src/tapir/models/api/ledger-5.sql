ALTER TABLE facts RENAME TO schemas;
CREATE TABLE facts (
    run TEXT NOT NULL,                 -- that found it out
    endpoint TEXT NOT NULL,            -- its name in the recipe
    base_url TEXT NOT NULL,
    model TEXT NOT NULL,               -- as requested
    name TEXT NOT NULL,                -- json_schema or context
    value INTEGER NOT NULL,            -- whether replies fit a schema that is sent, or the tokens of a prompt and its reply
    created REAL NOT NULL,             -- seconds since 1970
    PRIMARY KEY (run, endpoint, name)
);
INSERT INTO facts SELECT run, endpoint, base_url, model, 'json_schema', json_schema, created FROM schemas;
DROP TABLE schemas;
ALTER TABLE batches ADD COLUMN run TEXT NOT NULL DEFAULT '';
