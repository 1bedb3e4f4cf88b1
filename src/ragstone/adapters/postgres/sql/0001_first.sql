-- Schema 1: corpora, sources, versions, rows, membership, postings, evidence. Expand only from here on.
-- Every primary key begins with corpus_id. Engine rows (chunk, vector, posting) are created and deleted, never updated.

create table corpus (
    corpus_id bytea primary key,
    tenant text not null,
    name text not null,
    index_id bytea,                       -- the index that serves
    head integer not null default 0,      -- the version that serves; 0 before the first publish
    release text,
    hold text,
    epoch bigint not null default 0,      -- moves with every change of access or suppression
    access text not null default 'public' check (access in ('public', 'acl_required')),
    secret bytea not null,
    created_at timestamptz not null default now(),
    unique (tenant, name)
);

create table source (
    corpus_id bytea not null references corpus,
    source_id bytea not null,
    name text not null,
    location text not null,
    kind text not null,
    schema jsonb,
    primary key (corpus_id, source_id)
);

create table acl (
    corpus_id bytea not null references corpus,
    acl_id bytea not null,
    principals text[] not null,
    primary key (corpus_id, acl_id)
);
create index acl_principals on acl using gin (principals);

create table document (
    corpus_id bytea not null references corpus,
    document_id bytea not null,
    source_id bytea not null,
    key text not null,
    acl_id bytea not null,
    suppressed_at timestamptz,
    primary key (corpus_id, document_id)
);
create index document_key on document (corpus_id, key);
create index document_suppressed on document (corpus_id) where suppressed_at is not null;
create index document_acl on document (corpus_id, acl_id);

create table run (
    corpus_id bytea not null references corpus,
    run_id bytea not null,
    source_id bytea not null,
    index_id bytea not null,
    base_v integer not null,
    seq_lo integer,
    seq_hi integer,
    lease_until timestamptz not null,
    state text not null,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (corpus_id, run_id)
);
create index run_state on run (corpus_id, source_id, state);

create table docversion (
    corpus_id bytea not null references corpus,
    docversion_id bytea not null,
    document_id bytea not null,
    object_version text not null,
    source_order text not null,
    title text not null,
    metadata jsonb not null,
    acl_id bytea not null,                -- copied to the document at publish
    leaf bytea not null,
    state text not null default 'staged' check (state in ('staged', 'published')),
    run_id bytea not null,
    indexed_at timestamptz not null default now(),
    primary key (corpus_id, docversion_id)
);
create index docversion_run on docversion (corpus_id, run_id);
create index docversion_document on docversion (corpus_id, document_id);

-- Which document version a corpus version holds (v_to is the first version without it).
create table membership (
    corpus_id bytea not null references corpus,
    document_id bytea not null,
    docversion_id bytea not null,
    v_from integer not null,
    v_to integer not null default 2147483647,
    primary key (corpus_id, document_id, v_from)
);
create index membership_open on membership (corpus_id, document_id) where v_to = 2147483647;
create index membership_docversion on membership (corpus_id, docversion_id);

create table index (
    corpus_id bytea not null references corpus,
    index_id bytea not null,
    recipe jsonb not null,
    engine text not null default 'postgres',
    next_seq integer not null default 0,
    next_segment integer not null default 0,
    ann boolean not null default false,   -- whether the HNSW index exists
    state text not null default 'building',
    primary key (corpus_id, index_id)
);

create table chunk (
    corpus_id bytea not null,
    index_id bytea not null,
    seq integer not null,
    row_id bytea not null,
    chunk_id bytea not null,
    text_hash bytea not null,
    joined_terms integer not null,
    title_terms integer not null,
    run_id bytea not null,
    primary key (corpus_id, index_id, seq)
);
create index chunk_run on chunk (corpus_id, run_id);
create index chunk_chunk on chunk (corpus_id, chunk_id);

create table text (
    corpus_id bytea not null,
    text_hash bytea not null,
    body text not null,
    tokens integer not null,
    primary key (corpus_id, text_hash)
);

create table placement (
    corpus_id bytea not null,
    docversion_id bytea not null,
    index_id bytea not null,
    seq integer not null,
    ordinal integer not null,
    span_start integer not null,
    span_end integer not null,
    heading_path text[] not null,
    primary key (corpus_id, docversion_id, index_id, ordinal)
);
create index placement_seq on placement (corpus_id, index_id, seq);

create table vector (
    corpus_id bytea not null,
    index_id bytea not null,
    seq integer not null,
    embedding halfvec not null,
    primary key (corpus_id, index_id, seq)
);
alter table vector alter column embedding set storage plain;

create table embedding_cache (
    corpus_id bytea not null,
    embedding_id bytea not null,
    text_hash bytea not null,
    embedding bytea not null,
    primary key (corpus_id, embedding_id, text_hash)
);

create table segment (
    corpus_id bytea not null,
    index_id bytea not null,
    segment_id integer not null,
    seq_lo integer not null,
    seq_hi integer not null,
    n_rows integer not null,
    run_id bytea not null,
    primary key (corpus_id, index_id, segment_id)
);

create table posting (
    corpus_id bytea not null,
    index_id bytea not null,
    term text collate "C" not null,
    segment_id integer not null,
    n integer not null,
    bytes bytea not null,
    primary key (corpus_id, index_id, term, segment_id)
);

-- Which rows a corpus version holds. Written at publish only.
create table live (
    corpus_id bytea not null,
    index_id bytea not null,
    seq integer not null,
    v_from integer not null,
    v_to integer not null default 2147483647,
    primary key (corpus_id, index_id, seq, v_from)
);

create table version (
    corpus_id bytea not null references corpus,
    v integer not null,
    parent integer not null,
    kind text not null,
    index_id bytea not null,
    run_id bytea,
    merkle_root bytea not null,
    buckets bytea not null,
    manifest_key text not null,
    manifest_digest bytea not null,
    statistics jsonb not null,
    published_at timestamptz not null default clock_timestamp(),
    primary key (corpus_id, v)
);

create table quarantine (
    corpus_id bytea not null references corpus,
    source_id bytea not null,
    key text not null,
    object_version text not null,
    reason text not null,
    message text not null,
    field text not null default '',
    next_step text not null,
    at timestamptz not null default now(),
    dismissed_at timestamptz,
    primary key (corpus_id, source_id, key)
);

create table evidence (
    corpus_id bytea not null,
    at timestamptz not null,
    id uuid not null,
    kind text not null,
    schema integer not null,
    release text not null,
    v integer not null,
    trace_id text not null,
    status text not null,
    degraded jsonb not null,
    stage_ms jsonb not null,
    tokens jsonb not null,
    cost_microusd bigint not null,
    body bytea not null,
    primary key (corpus_id, at, id)
) partition by range (at);

create table evidence_text (
    corpus_id bytea not null,
    at timestamptz not null,
    id uuid not null,
    question text not null,
    answer text,
    context jsonb not null,
    primary key (corpus_id, at, id)
) partition by range (at);

create table evidence_document (
    corpus_id bytea not null,
    document_id bytea not null,
    at timestamptz not null,
    id uuid not null,
    primary key (corpus_id, document_id, at, id)
) partition by range (at);

create table ledger (
    corpus_id bytea not null,
    at timestamptz not null,
    id uuid not null,
    stage text not null,
    unit text not null,
    quantity bigint not null,
    cost_microusd bigint not null,
    primary key (corpus_id, at, id, stage, unit)
);
