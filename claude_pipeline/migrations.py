"""The tables of a ledger of this version, and what brings those of earlier ones to it.

The SQL is what SQLite and PostgreSQL share, written as SQLite takes it.
"""

SCHEMA_VERSION = 5

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE accounts (
    account INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    polled_at DOUBLE PRECISION NOT NULL DEFAULT 0
);
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts,
    name TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    settings TEXT NOT NULL,
    rows BIGINT NOT NULL,
    skipped BIGINT NOT NULL DEFAULT 0,
    invalid BIGINT NOT NULL DEFAULT 0,
    refusals TEXT NOT NULL DEFAULT '[]',
    duplicates BIGINT NOT NULL DEFAULT 0,
    reused BIGINT NOT NULL DEFAULT 0,
    requests BIGINT NOT NULL DEFAULT 0,
    unanswered BIGINT,
    changes BIGINT NOT NULL DEFAULT 0,
    asking INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    created_at DOUBLE PRECISION NOT NULL,
    submitted_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    submitted_by TEXT,
    submitted_from TEXT,
    traceparent TEXT,
    announced_at DOUBLE PRECISION,
    pruned_at DOUBLE PRECISION
);
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts,
    job_id TEXT NOT NULL REFERENCES jobs,
    state TEXT NOT NULL,
    asking INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL,
    requests BIGINT NOT NULL,
    first_row BIGINT NOT NULL,
    last_row BIGINT NOT NULL,
    reason TEXT,
    not_before DOUBLE PRECISION NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until DOUBLE PRECISION,
    newest_batch_id TEXT,
    submitting_at DOUBLE PRECISION,
    api_ahead DOUBLE PRECISION,
    batch_id TEXT UNIQUE,
    stream_id TEXT,
    missing_from TEXT,
    cancel_wanted INTEGER NOT NULL DEFAULT 0,
    created_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    succeeded BIGINT NOT NULL DEFAULT 0,
    errored BIGINT NOT NULL DEFAULT 0,
    canceled BIGINT NOT NULL DEFAULT 0,
    expired BIGINT NOT NULL DEFAULT 0,
    truncated BIGINT NOT NULL DEFAULT 0,
    refused BIGINT NOT NULL DEFAULT 0,
    paused BIGINT NOT NULL DEFAULT 0,
    misfits BIGINT NOT NULL DEFAULT 0,
    input_tokens BIGINT NOT NULL DEFAULT 0,
    output_tokens BIGINT NOT NULL DEFAULT 0,
    cache_read_tokens BIGINT NOT NULL DEFAULT 0,
    cache_write_tokens BIGINT NOT NULL DEFAULT 0,
    cache_saved_usd DOUBLE PRECISION DEFAULT 0,
    cost_usd DOUBLE PRECISION DEFAULT 0,
    reserved_usd DOUBLE PRECISION,
    collected_at DOUBLE PRECISION,
    pruned_at DOUBLE PRECISION,
    deleted_at DOUBLE PRECISION
);
CREATE INDEX shards_by_state ON shards (account, state);
CREATE INDEX shards_by_job ON shards (job_id);
CREATE TABLE members (shard INTEGER PRIMARY KEY REFERENCES shards, addresses BLOB NOT NULL, rows BLOB NOT NULL);
CREATE TABLE shard_models (
    shard INTEGER NOT NULL REFERENCES shards,
    model TEXT NOT NULL,
    answers BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION,
    list_usd DOUBLE PRECISION,
    PRIMARY KEY (shard, model)
);
CREATE TABLE job_shards (
    job_id TEXT NOT NULL REFERENCES jobs,
    shard INTEGER NOT NULL REFERENCES shards,
    PRIMARY KEY (job_id, shard)
) WITHOUT ROWID;
CREATE INDEX job_shards_by_shard ON job_shards (shard);
CREATE TABLE claims (
    account INTEGER NOT NULL,
    address BLOB NOT NULL,
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, address)
) WITHOUT ROWID;
"""

# What brings a store of a version to the next one.
MIGRATIONS = {
    1: """
ALTER TABLE accounts ADD COLUMN polled_at DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN missing_from TEXT;
ALTER TABLE shards ADD COLUMN api_ahead DOUBLE PRECISION
""",
    # A form is its parts in their order, of which the prompt was the only one that a row filled.
    2: """
ALTER TABLE jobs ADD COLUMN refusals TEXT NOT NULL DEFAULT '[]';
ALTER TABLE shards ADD COLUMN cache_read_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN cache_write_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN cache_saved_usd DOUBLE PRECISION DEFAULT 0;
ALTER TABLE shards ADD COLUMN reserved_usd DOUBLE PRECISION;
UPDATE jobs SET settings = json_set(settings, '$.form', json_object(
    'header', json_extract(settings, '$.form.header'),
    'betas', json_array(),
    'salt_column', NULL,
    'parts', json_array(
        json_extract(settings, '$.form.prefix'),
        json_object('type', 'text', 'template', json_extract(settings, '$.form.template')),
        json_extract(settings, '$.form.suffix')
    )
))
""",
    3: """
ALTER TABLE shards ADD COLUMN stream_id TEXT;
ALTER TABLE jobs ADD COLUMN asking INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN asking INTEGER NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN truncated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN paused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shards ADD COLUMN misfits BIGINT NOT NULL DEFAULT 0
""",
    4: """
ALTER TABLE jobs ADD COLUMN submitted_by TEXT;
ALTER TABLE jobs ADD COLUMN submitted_from TEXT;
ALTER TABLE jobs ADD COLUMN traceparent TEXT;
ALTER TABLE jobs ADD COLUMN announced_at DOUBLE PRECISION;
ALTER TABLE jobs ADD COLUMN pruned_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN collected_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN pruned_at DOUBLE PRECISION;
ALTER TABLE shards ADD COLUMN deleted_at DOUBLE PRECISION;
UPDATE shards SET collected_at = COALESCE(
    ended_at,
    created_at,
    (SELECT COALESCE(jobs.ended_at, jobs.submitted_at) FROM jobs WHERE jobs.job_id = shards.job_id)
) WHERE state = 'collected';
CREATE TABLE shard_models (
    shard INTEGER NOT NULL REFERENCES shards,
    model TEXT NOT NULL,
    answers BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION,
    list_usd DOUBLE PRECISION,
    PRIMARY KEY (shard, model)
)
""",
}
