drop table if exists stepquota.tenants;
drop table if exists stepquota.tiers;
drop table if exists stepquota.policy;
