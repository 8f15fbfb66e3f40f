"""A Stripe that lives in memory, for tests and for the demo; it needs the extra ``demo``.

It keeps products, prices, customers, subscriptions with their items, and the events of what happens
to them; answers the requests that a sync makes, with the paging, expansion, filters and errors of
the real API; and delivers signed webhooks, with mishaps where they are wanted::

    fake = StripeFake("sk_test_fake")
    price = fake.create_price(fake.create_product().id, metadata={"workflow_step_limit": "500"})
    customer = fake.create_customer(metadata={"tenant": "acme"})
    fake.create_subscription(customer.id, [price.id])
    with serve(fake) as address:
        client = stripe.StripeClient("sk_test_fake", base_addresses={"api": address})
        ...
        fake.faults.fail("/v1/subscriptions", 429, retry_after=1)
        with fake.faults.hold("/v1/subscriptions/.*") as held:
            ...  # answers are made now and come when the block ends: stale ones
        fake.add_endpoint("http://127.0.0.1:8000/stripe", "whsec_fake")
        fake.update_price(price.id, metadata={"workflow_step_limit": "900"})
        Courier(fake, Mishaps(drop=0.1, duplicate=0.1, delay=0.1, shuffle=True), seed=7).deliver()

What is not there: writing by requests, invoices and payments, schedules, search, periods that
advance by themselves (``renew`` advances them).
"""

from .courier import Courier, Delivery, Mishaps
from .fake import Endpoint, StripeFake
from .faults import Held
from .payloads import snapshot, thin
from .refusals import Refusal
from .server import serve
from .shapes import CURRENT_VERSION

__all__ = [
    "CURRENT_VERSION",
    "Courier",
    "Delivery",
    "Endpoint",
    "Held",
    "Mishaps",
    "Refusal",
    "StripeFake",
    "serve",
    "snapshot",
    "thin",
]
