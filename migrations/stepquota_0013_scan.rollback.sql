alter table if exists stepquota.scan_state drop column if exists queue_looked_at_to;
alter table if exists stepquota.paused_tenants drop column if exists inputs_hash;
