-- The lanes' table keeps its empty pages, so that no plan that was made while it was tiny reads it whole
-- after it has grown. See _pad_lanes.

alter table stepquota.workflow_step_usage_lanes set (vacuum_truncate = off);
