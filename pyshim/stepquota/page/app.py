"""The application: its paths, and the headers that every answer has."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import jinja2
import psycopg
import psycopg_pool
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..errors import StepquotaError
from . import words
from .chart import draw
from .data import DAYS, Choice, Database, Unbound, Usage
from .identity import Doorkeeper, Identity, Refused
from .settings import Settings
from .tokens import Untrusted

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_BODY_LIMIT = 16 * 1024
_ANSWER_SECONDS = 300
# Where each column of the list is sorted by when it is chosen first.
_GREATEST_FIRST = ("percent", "used", "paused")

NOBODY = "'none'"
_NOWHERE = Refused(404, "There is no such page.")

Handler = Callable[[Request], Any]


class Page:
    """The page.

    Args:
        settings: Whom to trust.
        operators: For operators; None if this page is not for them.
        tenants: For tenants' admins; None if it is not for them.
    """

    def __init__(self, settings: Settings, operators: Database | None, tenants: Database | None):
        self._settings = settings
        self._operators = operators
        self._tenants = tenants
        self._door = Doorkeeper(settings)
        self._static = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters.update(words.FILTERS)
        # A new release must not be shown with styles of the old one.
        version = hashlib.sha256(b"".join(self._static.values())).hexdigest()[:12]
        self._templates.globals.update(root=settings.root, version=version)

    def make(self) -> Starlette:
        """The ASGI application."""

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            for database in (self._operators, self._tenants):
                if database is not None:
                    await run_in_threadpool(database.close)

        def route(path: str, handler: Handler, method: str = "GET") -> Route:
            async def answer(request: Request) -> Response:
                return await self._answer(request, handler)

            return Route(path, answer, methods=[method])

        async def refuse(request: Request, error: Exception) -> Response:
            is_method = isinstance(error, HTTPException) and error.status_code == 405
            refused = Refused(405, "Not in this way.") if is_method else _NOWHERE
            response = self._refuse(request, refused)
            self._add_headers(request, response)
            return response

        return Starlette(
            exception_handlers={404: refuse, 405: refuse},
            routes=[
                route("/", self._list),
                route("/tenant", self._tenant),
                route("/resume", self._resume, "POST"),
                route("/card", self._card_page),
                route("/card.html", self._card_fragment),
                route("/card.json", self._card_json),
                route("/enter", self._enter),
                route("/leave", self._leave, "POST"),
                route("/health", self._health),
                route("/static/{name}", self._serve_static),
            ],
            lifespan=lifespan,
        )

    # -- Every answer

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            request.state.form = await _read_form(request) if request.method == "POST" else {}
            response: Response = await run_in_threadpool(handler, request)
        except Refused as refused:
            response = self._refuse(request, refused)
        except StepquotaError as error:
            response = self._refuse(request, Refused(400, f"{error.message}.", error.hint or ""))
        except psycopg.DataError:
            response = self._refuse(request, Refused(400, "The address cannot be read."))
        except (psycopg_pool.PoolTimeout, psycopg.OperationalError) as error:
            log.error("the database does not answer: %s", type(error).__name__)
            response = self._refuse(
                request, Refused(503, "The database does not answer.", "Try again in a moment.")
            )
        except Unbound:
            log.error("the role for tenants is not bound to what its session names")
            response = self._refuse(request, Refused(503, "The page is not set up for tenants."))
        except Exception:
            # Nothing of it is for who asked.
            log.exception("%s %s failed", request.method, request.url.path)
            response = self._refuse(request, Refused(500, "Something went wrong."))
        self._add_headers(request, response)
        return response

    def _refuse(self, request: Request, refused: Refused) -> Response:
        if request.url.path.endswith(".json"):
            return _json({"error": refused.what, "hint": refused.hint}, refused.status)
        return self._render(
            "refused.html",
            {"identity": None, "title": "Not shown", "refused": refused},
            refused.status,
        )

    def _add_headers(self, request: Request, response: Response) -> None:
        embeddable = request.url.path.startswith("/card")
        ancestors = " ".join(self._settings.embed_in) if embeddable else ""
        response.headers.update(
            {
                "Content-Security-Policy": "default-src 'none'; style-src 'self'; "
                "script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
                f"frame-ancestors {ancestors or NOBODY}",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
            }
        )
        response.headers.setdefault("Cache-Control", "no-store")
        if not ancestors:
            response.headers["X-Frame-Options"] = "DENY"
            response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if self._settings.is_secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        origin = request.headers.get("origin")
        if embeddable and origin is not None and origin in self._settings.embed_in:
            # Without credentials: a card that others read is shown by its link alone.
            response.headers["Access-Control-Allow-Origin"] = origin
        if embeddable:
            response.headers["Vary"] = "Origin"

    def _render(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(values), status)

    # -- For operators

    def _as_operator(self, request: Request) -> tuple[Identity, Database]:
        identity = self._door.identify(request)
        if identity.kind != "operator":
            raise Refused(403, "This is for operators.")
        if self._operators is None:
            raise Refused(404, "This page is not for operators.")
        return identity, self._operators

    def _list(self, request: Request) -> Response:
        if self._door.identify(request).kind == "tenant":
            return self._redirect("/card")
        identity, database = self._as_operator(request)
        asked = request.query_params
        choice = Choice(
            search=asked.get("search", "").strip()[:255],
            only=asked.get("only", ""),
            sort=asked.get("sort", "tenant"),
            descending=asked.get("order") == "desc",
            after=(asked["value"], asked["tenant"])
            if "value" in asked and "tenant" in asked
            else None,
            backwards=asked.get("go") == "back",
        )
        found = database.list_tenants(choice)

        def link(**changes: str | None) -> str:
            """The list, but for what is changed; another choice begins at its first page."""
            values = {
                "search": choice.search,
                "only": choice.only,
                "sort": choice.sort if choice.sort != "tenant" else "",
                "order": "desc" if choice.descending else "",
                **changes,
            }
            query = urlencode({name: value for name, value in values.items() if value})
            return f"{self._settings.root}/" + (f"?{query}" if query else "")

        def sort_link(column: str) -> str:
            if column == choice.sort:
                descending = not choice.descending
            else:
                descending = column in _GREATEST_FIRST
            return link(
                sort=column if column != "tenant" else None, order="desc" if descending else None
            )

        first, last = (found.rows[0], found.rows[-1]) if found.rows else (None, None)
        return self._render(
            "list.html",
            {
                "identity": identity,
                "form": self._door.sign_form(identity),
                "title": "Tenants",
                "choice": choice,
                "found": found,
                "link": link,
                "sort_link": sort_link,
                "previous": link(value=first.sort_value, tenant=first.tenant, go="back")
                if first and found.has_previous
                else None,
                "next": link(value=last.sort_value, tenant=last.tenant)
                if last and found.has_next
                else None,
            },
        )

    def _tenant(self, request: Request) -> Response:
        identity, database = self._as_operator(request)
        tenant = _need(request.query_params, "tenant")
        before = request.query_params.get("before", "").partition("|")
        found = database.read_details(tenant, (before[0], before[2]) if before[1] else None)
        if found is None:
            raise Refused(
                404,
                f"The tenant {tenant} has not asked for a step yet.",
                "Check its name; upper and lower case count.",
            )
        usage, details = found
        return self._render(
            "tenant.html",
            {
                "identity": identity,
                "form": self._door.sign_form(identity),
                "title": tenant,
                "details": details,
                "is_first_page": not before[1],
                "answer": self._read_answer(request, tenant),
                **_card_values(usage),
            },
        )

    def _resume(self, request: Request) -> Response:
        identity, database = self._as_operator(request)
        form = request.state.form
        self._door.check_form(request, identity, form.get("form"))
        tenant, run_id = _need(form, "tenant"), _need(form, "run")
        answer: dict[str, Any]
        try:
            done = database.resume(tenant, run_id, f"{identity.name}, on the page")
        except StepquotaError as error:
            answer = {"is_good": False, "text": words.sentence(error.message, error.hint)}
        except psycopg.errors.InsufficientPrivilege:
            raise Refused(
                403,
                "The page's role may not resume runs.",
                "It needs the rights of an operator: stepquota grant ROLE operator.",
            ) from None
        else:
            answer = {"is_good": done.resumed, "text": words.describe_resume(done)}
        token = self._door.signer.sign(
            "answer", {"tenant": tenant, "run": run_id, **answer}, _ANSWER_SECONDS
        )
        return self._redirect(f"/tenant?{urlencode({'tenant': tenant, 'answer': token})}#answer")

    def _read_answer(self, request: Request, tenant: str) -> dict[str, Any] | None:
        try:
            answer = self._door.signer.read("answer", request.query_params.get("answer"))
        except Untrusted:
            return None
        return answer if answer["tenant"] == tenant else None

    # -- For a tenant's admin

    def _read_card(self, request: Request) -> tuple[Identity, Usage | None]:
        identity = self._door.identify_by_link(request)
        asked = request.query_params.get("tenant")
        if identity.kind == "operator":
            database, tenant = self._operators, asked or _need(request.query_params, "tenant")
        else:
            database, tenant = self._tenants, identity.name
            if asked not in (None, tenant):
                raise Refused(403, "This is not your tenant.")
        if database is None:
            raise Refused(404, "This page is not for you.")
        return identity, database.read_usage(tenant)

    def _card_page(self, request: Request) -> Response:
        identity, usage = self._read_card(request)
        return self._render(
            "card_page.html",
            {
                "identity": identity,
                "form": self._door.sign_form(identity),
                "title": "Workflow actions",
                **_card_values(usage),
            },
        )

    def _card_fragment(self, request: Request) -> Response:
        _, usage = self._read_card(request)
        return self._render("card.html", _card_values(usage))

    def _card_json(self, request: Request) -> Response:
        identity, usage = self._read_card(request)
        if usage is None:
            return _json({"tenant": identity.name, "used": 0, "is_known": False})
        row = usage.usage
        return _json(
            {
                "tenant": row["tenant"],
                "is_known": True,
                "used": row["used_count"],
                "limit": row["effective_limit"],
                "remaining": row["remaining"],
                "percent": float(row["percent"]) if row["percent"] is not None else None,
                "is_unlimited": row["effective_limit"] is None,
                "period_start": _iso(row["period_start"]),
                "resets_at": _iso(row["resets_at"]),
                "exhausts_at": _iso(usage.forecast.exhausts_at),
                "lasts": usage.forecast.lasts,
                "paused_runs": row["paused_runs"],
                "days": [{"day": day.day.isoformat(), "used": day.units} for day in usage.days],
                "as_of": _iso(usage.now),
            }
        )

    # -- In and out

    def _enter(self, request: Request) -> Response:
        token = request.query_params.get("token")
        identity = self._door.read_link(token)
        seconds = min(self._door.link_ends(token) - time.time(), self._settings.session_seconds)
        response = self._redirect("/" if identity.kind == "operator" else "/card")
        response.set_cookie(
            self._door.cookie,
            self._door.signer.sign(
                "session", {"kind": identity.kind, "name": identity.name}, seconds
            ),
            max_age=max(int(seconds), 1),
            path="/",
            secure=self._settings.is_secure,
            httponly=True,
            samesite="lax",
        )
        return response

    def _leave(self, request: Request) -> Response:
        identity = self._door.identify(request)
        self._door.check_form(request, identity, request.state.form.get("form"))
        response = self._render(
            "refused.html",
            {
                "identity": None,
                "title": "Signed out",
                "refused": Refused(200, "You are signed out.", "Your link opens the page again."),
            },
        )
        response.delete_cookie(
            self._door.cookie, path="/", secure=self._settings.is_secure, httponly=True
        )
        return response

    def _redirect(self, path: str) -> Response:
        return RedirectResponse(self._settings.root + path, 303)

    # -- The rest

    def _health(self, _request: Request) -> Response:
        databases = [d for d in (self._operators, self._tenants) if d is not None]
        is_well = all(database.is_reachable() for database in databases)
        return _json({"ok": is_well}, 200 if is_well else 503)

    def _serve_static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise _NOWHERE
        return Response(
            self._static[name],
            media_type=_STATIC[name],
            headers={"Cache-Control": "public, max-age=86400"},
        )


def _card_values(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {"usage": None, "chart": None}
    return {
        "usage": usage.usage,
        "now": usage.now,
        "chart": draw(usage.days, DAYS),
        "forecast": usage.forecast,
    }


def _need(values: Mapping[str, str], name: str) -> str:
    value = values.get(name, "")
    if not value or "\0" in value:
        raise Refused(400, f"The address lacks {name}.")
    return value


async def _read_form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_LIMIT:
            raise Refused(413, "The form is too large.")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=20)
    except ValueError:
        raise Refused(400, "The form cannot be read.") from None
    return {name: values[-1] for name, values in fields.items()}


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status, media_type="application/json")


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
