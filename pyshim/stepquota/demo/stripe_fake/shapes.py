"""Records in the shape that Stripe's API answers, of the API version that was asked for.

Between the versions lie the two generations of subscriptions: since 2025-03-31.basil the period is
on the items, before that it was on the subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .records import Customer, Item, Price, Product, Subscription
from .refusals import Refusal

StripeObject = dict[str, Any]

# stripe-python 16.1 asks for this one by itself.
CURRENT_VERSION = "2026-10-28.endive"
_BASIL = "2025-03-31"
_DAHLIA = "2026-03-25"
# Between 2020-08-27 and basil much was added that nobody here reads; it came at once, as it were.
_MODERN = "2022-11-15"

# As many items are in a subscription's own list; the others are asked for page by page.
ITEMS_IN_SUBSCRIPTION = 10


def is_since(version: str, date: str) -> bool:
    """Whether an API version is of that date or later."""
    return version[:10] >= date


class Shaper:
    """Makes answers of one API version.

    Args:
        version: The API version.
        livemode: Whether the objects are of Stripe's live mode.
        find_price: Finds a price by id.
        expand: What is expanded, as dotted paths from the object.
        find: Finds what is expanded, by type and id, in its shape.
    """

    def __init__(
        self,
        version: str,
        livemode: bool,
        find_price: Callable[[str], Price],
        expand: tuple[str, ...] = (),
        find: Callable[[str, str, tuple[str, ...]], StripeObject | None] | None = None,
    ):
        self.version = version
        self._livemode = livemode
        self._find_price = find_price
        self._expand = expand
        self._find = find
        self._is_basil = is_since(version, _BASIL)
        self._is_modern = is_since(version, _MODERN)
        # Subscriptions of a page share their prices.
        self._prices: dict[str, StripeObject] = {}
        self._plans: dict[str, StripeObject] = {}

    def shape(self, record: Product | Price | Customer | Subscription | Item) -> StripeObject:
        """Whatever it is.

        Raises:
            Refusal: Something cannot be expanded.
        """
        if isinstance(record, Product):
            return self.product(record)
        if isinstance(record, Price):
            return self.price(record)
        if isinstance(record, Customer):
            return self.customer(record)
        if isinstance(record, Item):
            return self.subscription_item(record)
        return self.subscription(record)

    def product(self, record: Product) -> StripeObject:
        """A product."""
        self._refuse_others("default_price", "tax_code")
        return {
            "id": record.id,
            "object": "product",
            "active": record.active,
            "attributes": [],
            "created": record.created,
            "default_price": None,
            "description": None,
            "images": [],
            "livemode": self._livemode,
            "marketing_features": [],
            "metadata": dict(record.metadata),
            "name": record.name,
            "package_dimensions": None,
            "shippable": None,
            "statement_descriptor": None,
            "tax_code": None,
            "type": "service",
            "unit_label": None,
            "updated": record.updated,
            "url": None,
        }

    def price(self, record: Price) -> StripeObject:
        """A price."""
        self._refuse_others("product", "tiers", "currency_options")
        shape: StripeObject = {
            "id": record.id,
            "object": "price",
            "active": record.active,
            "billing_scheme": "per_unit",
            "created": record.created,
            "currency": record.currency,
            "livemode": self._livemode,
            "lookup_key": record.lookup_key,
            "metadata": dict(record.metadata),
            "nickname": record.nickname,
            "product": self._reference("product", "product", record.product),
            "recurring": record.interval and self._recurring(record),
            "tiers_mode": None,
            "transform_quantity": None,
            "type": "recurring" if record.interval else "one_time",
            "unit_amount": record.unit_amount,
            "unit_amount_decimal": str(record.unit_amount),
        }
        if self._is_modern:
            shape |= {"custom_unit_amount": None, "tax_behavior": "unspecified"}
        return shape

    def customer(self, record: Customer) -> StripeObject:
        """A customer."""
        self._refuse_others("default_source", "subscriptions", "sources", "tax", "test_clock")
        shape: StripeObject = {
            "id": record.id,
            "object": "customer",
            "address": None,
            "balance": 0,
            "created": record.created,
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": None,
            "discount": None,
            "email": record.email,
            "invoice_prefix": record.id[-8:].upper(),
            "invoice_settings": {
                "custom_fields": None,
                "default_payment_method": None,
                "footer": None,
                "rendering_options": None,
            },
            "livemode": self._livemode,
            "metadata": dict(record.metadata),
            "name": record.name,
            "next_invoice_sequence": 1,
            "phone": None,
            "preferred_locales": [],
            "shipping": None,
            "tax_exempt": "none",
            "test_clock": record.test_clock,
        }
        if is_since(self.version, _DAHLIA):
            shape["customer_account"] = None
        return shape

    def subscription(self, record: Subscription) -> StripeObject:
        """A subscription with the first of its items."""
        self._refuse_others("customer", "items", "latest_invoice", "default_payment_method")
        items = [self.item(item) for item in record.items[:ITEMS_IN_SUBSCRIPTION]]
        shape: StripeObject = {
            "id": record.id,
            "object": "subscription",
            "application_fee_percent": None,
            "billing_cycle_anchor": record.anchor,
            "billing_thresholds": None,
            "cancel_at": record.cancel_at,
            "cancel_at_period_end": record.cancel_at_period_end,
            "canceled_at": record.canceled_at,
            "collection_method": "charge_automatically",
            "created": record.created,
            "customer": self._reference("customer", "customer", record.customer),
            "days_until_due": None,
            "default_payment_method": None,
            "default_source": None,
            "default_tax_rates": [],
            "ended_at": record.ended_at,
            "items": {
                "object": "list",
                "data": items,
                "has_more": len(record.items) > len(items),
                "total_count": len(record.items),
                "url": f"/v1/subscription_items?subscription={record.id}",
            },
            "latest_invoice": f"in_{record.id[4:]}",
            "livemode": self._livemode,
            "metadata": dict(record.metadata),
            "next_pending_invoice_item_invoice": None,
            "pause_collection": record.pause_collection,
            "pending_invoice_item_interval": None,
            "pending_setup_intent": None,
            "pending_update": None,
            # Of a subscription with several items Stripe says neither.
            "plan": items[0]["plan"] if len(items) == 1 else None,
            "quantity": items[0]["quantity"] if len(items) == 1 else None,
            "schedule": None,
            "start_date": record.created,
            "status": record.status,
            "transfer_data": None,
            "trial_end": record.trial_end,
            "trial_start": record.trial_start,
        }
        if not self._is_basil and record.items:
            # Where items' periods differ, old versions show the shortest.
            shortest = min(record.items, key=lambda item: (item.end, -item.start))
            shape |= {"current_period_start": shortest.start, "current_period_end": shortest.end}
        if self._is_modern:
            shape |= self._modern_subscription(record)
        else:
            shape["discount"] = None
        return shape

    def _modern_subscription(self, record: Subscription) -> StripeObject:
        cancelled = None if record.canceled_at is None else "cancellation_requested"
        mode: StripeObject = {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": record.created,
        }
        shape: StripeObject = {
            "application": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor_config": None,
            "billing_mode": mode,
            "cancellation_details": {"comment": None, "feedback": None, "reason": cancelled},
            "currency": self._find_price(record.items[0].price).currency if record.items else "eur",
            "description": None,
            "discounts": [],
            "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
            "on_behalf_of": None,
            "payment_settings": {
                "payment_method_options": None,
                "payment_method_types": None,
                "save_default_payment_method": "off",
            },
            "test_clock": record.test_clock,
            "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        }
        if is_since(self.version, _DAHLIA):
            shape["customer_account"] = None
        return shape

    def subscription_item(self, record: Item) -> StripeObject:
        """An item that was asked for by itself."""
        self._refuse_others("price", "tax_rates", "discounts")
        return self.item(record)

    def item(self, record: Item) -> StripeObject:
        """An item of a subscription."""
        shape: StripeObject = {
            "id": record.id,
            "object": "subscription_item",
            "billing_thresholds": None,
            "created": record.created,
            "metadata": dict(record.metadata),
            "plan": self._plan(record.price),
            "price": self._price_of_item(record.price),
            "quantity": record.quantity,
            "subscription": record.subscription,
            "tax_rates": [],
        }
        if self._is_modern:
            shape["discounts"] = []
        if self._is_basil:
            shape |= {"current_period_start": record.start, "current_period_end": record.end}
        return shape

    def _price_of_item(self, id: str) -> StripeObject:
        shape = self._prices.get(id)
        if shape is None:
            # Items are expanded as items.data.price from a subscription, as price from an item.
            expand = _below("items.data.price", self._expand) + _below("price", self._expand)
            shaper = Shaper(self.version, self._livemode, self._find_price, expand, self._find)
            shape = self._prices[id] = shaper.price(self._find_price(id))
        return shape

    def _plan(self, id: str) -> StripeObject:
        shape = self._plans.get(id)
        if shape is None:
            price = self._find_price(id)
            shape = self._plans[id] = {
                "id": price.id,
                "object": "plan",
                "active": price.active,
                "amount": price.unit_amount,
                "amount_decimal": str(price.unit_amount),
                "billing_scheme": "per_unit",
                "created": price.created,
                "currency": price.currency,
                **self._recurring(price),
                "livemode": self._livemode,
                "metadata": dict(price.metadata),
                "nickname": price.nickname,
                "product": price.product,
                "tiers_mode": None,
                "transform_usage": None,
            }
        return shape

    def _recurring(self, record: Price) -> StripeObject:
        return {
            "interval": record.interval,
            "interval_count": record.interval_count,
            ("meter" if self._is_modern else "aggregate_usage"): None,
            "trial_period_days": None,
            "usage_type": "licensed",
        }

    def _reference(self, key: str, kind: str, id: str) -> str | StripeObject:
        """An id, or the object itself where it is expanded."""
        inner = [path for path in self._expand if path == key or path.startswith(f"{key}.")]
        if not inner or self._find is None:
            return id
        return self._find(kind, id, _below(key, self._expand)) or id

    def _refuse_others(self, *expandable: str) -> None:
        """Refuse what cannot be expanded."""
        for path in self._expand:
            if path.split(".")[0] not in expandable:
                raise Refusal(400, f"This property cannot be expanded ({path}).", param="expand")


def _below(key: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """What is expanded in the object at a path, as paths from there."""
    return tuple(path[len(key) + 1 :] for path in paths if path.startswith(f"{key}."))
