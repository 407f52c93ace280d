-- One row: how often tenants or keys were changed, so that others see that there is something new.
CREATE TABLE changes (version INTEGER NOT NULL);
INSERT INTO changes (version) VALUES (1);

CREATE TABLE tenants (
    name TEXT NOT NULL PRIMARY KEY,
    -- Everything else about it, as JSON.
    settings TEXT NOT NULL
);

-- Only digests: no key can be made of them.
CREATE TABLE keys (
    digest BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    last_four TEXT NOT NULL,
    created_milliseconds INTEGER NOT NULL,
    -- From then on it is not taken any more: revoked, or replaced by another.
    ends_milliseconds INTEGER,
    UNIQUE (tenant, name)
);

-- Money is in billionths of a US dollar, times are milliseconds since 1970.
CREATE TABLE records (
    time_milliseconds INTEGER NOT NULL,
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    path TEXT NOT NULL,
    pool TEXT NOT NULL,
    backend TEXT NOT NULL,
    status INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    streamed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    tokens_estimated INTEGER NOT NULL,
    duration_milliseconds INTEGER NOT NULL,
    first_byte_milliseconds INTEGER,
    attempts INTEGER NOT NULL,
    continuations INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    saved INTEGER NOT NULL,
    energy_joules REAL
);
-- By time, then id: new records go to its end, where an index by id alone would touch a page
-- anywhere in a file of any size.
CREATE UNIQUE INDEX records_by_time ON records (time_milliseconds, id);

-- What the records of a tenant's day cost: written with them, so that budgets need not read them.
CREATE TABLE spent (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID;
