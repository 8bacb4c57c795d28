"""The routes: HTTP in, the service's answers out, and an error of one shape for whatever is wrong."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxdlm.batch.decisions import URLS
from jaxdlm.serve.calls import Call
from jaxdlm.serve.keys import LOOPBACK, Keys
from jaxdlm.serve.metrics import TYPE
from jaxdlm.serve.page import offered, page
from jaxdlm.serve.reading import CHAT, COMPLETION
from jaxdlm.serve.refusals import Refused
from jaxdlm.serve.service import Service

OPEN = ("/", "/health")  # paths for which nobody needs a key
GONE = 499  # status that is counted where the client has gone; nobody reads it
CODES = {404: "unknown_url", 405: "method_not_allowed"}


def create_app(service: Service, keys: Keys, *, local: bool = False) -> ASGIApp:
    """The application. local: whether it listens on this machine alone, so that pages of other sites are turned away."""

    offers = offered(service)

    async def endpoint(request: Request) -> Response:
        return await _answered(service, request)

    async def decisions(request: Request) -> Response:
        return JSONResponse(await _decided(service, request))

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(service)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise Refused(404, f"there is no such model here: ask for {service.name!r}", "model_not_found", "model")
        return JSONResponse(_model(service))

    async def health(request: Request) -> Response:
        state = service.state
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=TYPE)

    async def playground(request: Request) -> Response:
        text, headers = page()
        return HTMLResponse(text, headers=headers)

    async def choices(request: Request) -> Response:
        return JSONResponse(offers)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    posts = [Route(path, endpoint, methods=["POST"]) for path in (CHAT, COMPLETION)]
    posts += [Route(path, decisions, methods=["POST"]) for path in URLS]
    gets = {"/v1/models": models, "/v1/models/{name:path}": model, "/health": health, "/metrics": metrics}
    gets |= {"/": playground, "/playground.json": choices}
    routes = posts + [Route(path, each, methods=["GET"]) for path, each in gets.items()]
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refused: _refused, HTTPException: _wrong, ClientDisconnect: _gone, Exception: _broken,
    }  # fmt: skip
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    return Guard(app, service, keys, local, [route.path for route in routes])


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "jaxdlm"}


async def _refused(request: Request, refused: Refused) -> Response:
    return JSONResponse(refused.body, refused.status, refused.headers)


async def _wrong(request: Request, error: HTTPException) -> Response:
    what = f"{request.method} {request.url.path[:80]}: {error.detail}"
    body = Refused(error.status_code, what, CODES.get(error.status_code)).body
    return JSONResponse(body, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _broken(request: Request, error: Exception) -> Response:
    """What nobody foresaw: the client is told nothing of it; the log has it."""
    return JSONResponse(Refused(500, "the server made a mistake, which its log has").body, 500)


# ------------------------------------------------------------------------------------------------------- bodies


async def body_of(request: Request, most: int, patience: float) -> bytes:
    """The body of a request of JSON, of `most` bytes, within `patience` seconds. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "the body must be JSON: send it with Content-Type: application/json", "unsupported_type")
    long = Refused(413, f"the body has more than {most} bytes: shorten it", "body_too_large",
                   headers={"Connection": "close"})  # fmt: skip
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > most:
        raise long
    data = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise long
    except TimeoutError:
        raise Refused(408, f"the body took more than {patience:g} s: send it again", "timeout",
                      headers={"Connection": "close"}) from None  # fmt: skip
    return bytes(data)


async def _call(service: Service, request: Request) -> Call:
    data = await body_of(request, service.limits.body, service.limits.patience)
    return await service.call(data, request.url.path)


async def _answered(service: Service, request: Request) -> Response:
    call = await _call(service, request)
    if call.asked.stream:
        return Events(call, service.limits.patience)
    try:
        return JSONResponse(await unless_gone(call.whole(), request.receive))
    finally:
        call.close()


async def _decided(service: Service, request: Request) -> Any:
    data = await body_of(request, service.limits.body, service.limits.patience)
    return await unless_gone(service.decide(data, request.url.path), request.receive)


async def unless_gone(work: Any, receive: Receive) -> Any:
    """What `work` returns. Raises ClientDisconnect, and cancels it, once the client has gone."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """A stream of server-sent events. A client that goes, or takes none for `patience` seconds, gives back its slots."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, patience: float) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.call, self.patience = call, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientDisconnect, TimeoutError, OSError):
                await unless_gone(self._send(send), receive)
        finally:
            self.call.close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with asyncio.timeout(self.patience):
            await send(start)
        async for piece in self.call.pieces():
            async with asyncio.timeout(self.patience):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# -------------------------------------------------------------------------------------------------------- guard


class Guard:
    """Before every route: the key, the Host of a local server, and a count behind it."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys, local: bool, paths: list[str]) -> None:
        self.app, self.service, self.keys, self.local, self.paths = app, service, keys, local, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), [GONE]

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                await self.app(scope, receive, counted)
            else:
                await JSONResponse(refused.body, refused.status, refused.headers)(scope, receive, counted)
        finally:
            route = scope["path"] if scope["path"] in self.paths else "other"
            self.service.metrics.requests.labels(route, status[0]).inc()
            self.service.metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self.local and host_of(headers.get(b"host", "")) not in LOOPBACK:
            return Refused(403, "this server answers its own machine alone: ask 127.0.0.1", "wrong_host")
        if scope["path"] not in OPEN and not self.keys.open(headers.get(b"authorization", "")):
            how = {"WWW-Authenticate": "Bearer"}
            return Refused(
                401, "no valid API key: send it as Authorization: Bearer KEY", "invalid_api_key", headers=how
            )
        return None


def host_of(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0].lower()
