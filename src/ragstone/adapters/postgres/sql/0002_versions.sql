-- Schema 2: what rollback, deletion, retention and audit need. Additions only.

-- A scan of a whole source and a run of named documents may be under way at once: each has a lock of its own.
alter table run add column scope text not null default 'scan' check (scope in ('scan', 'changes'));

-- When the run read its source: what its manifest says.
alter table run add column source_order text not null default '';

-- The greatest source order given out so far: a clock that jumps back must not make a new scan look old.
alter table source add column last_order bigint not null default 0;

-- Up to which source order a document, or a whole source, has been looked at: what was found unchanged or gone is newer
-- than what a slower run read before.
alter table document add column seen_order text not null default '';
alter table source add column scanned_order text not null default '';

alter table version add column note text not null default '';      -- why, for a rollback or a deletion
alter table version add column collected_at timestamptz;           -- its rows were removed by retention
alter table version add column checkpoint_key text;                -- a manifest that lists everything, not a delta
alter table version add column checkpoint_digest bytea;

-- What the bytes of a row's vector hash to, as it was written (null in rows written by schema 1).
alter table chunk add column vector_hash bytea;

-- The source order of what found the fault: an older scan must not take a newer entry away.
alter table quarantine add column source_order text not null default '';

create index chunk_text on chunk (corpus_id, text_hash);

-- Exactly which seqs a segment was written for: runs interleave, so seq_lo and seq_hi hold rows of others.
alter table segment add column spans int4multirange;
update segment set spans = int4multirange(int4range(seq_lo, seq_hi));
alter table segment alter column spans set not null;
