"""The page: tenants and their usage for operators, a card for a tenant's admin.

It decides nothing and holds no right: it shows what functions and views answer to the role that it
connects as. docs/page.md tells how to run it.
"""
