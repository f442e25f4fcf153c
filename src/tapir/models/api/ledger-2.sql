CREATE TABLE batches (
    id TEXT PRIMARY KEY,               -- as the provider calls it
    endpoint TEXT NOT NULL,            -- base URL
    state TEXT NOT NULL,               -- open, collected or failed
    created REAL NOT NULL
);
CREATE TABLE batched (
    digest BLOB NOT NULL,
    batch TEXT NOT NULL REFERENCES batches (id),
    PRIMARY KEY (digest, batch)
) WITHOUT ROWID;
