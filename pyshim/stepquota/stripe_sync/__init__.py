"""The Stripe sync: keeps the mirror in the database as Stripe says.

Three feeders, one writer. The endpoint stores the ids of events within milliseconds (``endpoint``),
catching up reads the events that were missed (``catch_up``), the full sync lists everything
(``full_sync``). Stored events are worked off by asking Stripe for their object (``work``). What is
written, and what it means for quotas, is decided by functions in the database (``mirror``).

It needs the extra ``stripe``, and the endpoint the extra ``serve`` as well.
"""
