-- How often callers of a tenant met of late: its lane is split where they do so again and again.

set local lock_timeout = '5s';

alter table stepquota.workflow_step_quotas
  add column if not exists contended_since timestamptz,
  add column if not exists contended_count integer;

comment on column stepquota.workflow_step_quotas.contended_since is
  'When the count of contended_count began; NULL if callers never met.';
comment on column stepquota.workflow_step_quotas.contended_count is
  'How often a caller found its lane taken in the second from contended_since on; NULL if never.';
