drop table if exists stepquota.scan_state;
drop table if exists stepquota.scheduler_jobs;
drop table if exists stepquota.resume_scans;
drop table if exists stepquota.quota_events;
