drop table if exists stepquota.tenant_role_bindings;
alter table if exists stepquota.policy drop column if exists bound_roles;
