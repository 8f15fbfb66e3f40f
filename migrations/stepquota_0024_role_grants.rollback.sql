drop table if exists stepquota.role_grants;
