"""`jaxdlm serve`: arguments into a server."""

from typing import Any

import click

from jaxdlm import argument, command
from jaxdlm.command import COUNT, ROWS, SECONDS, Command, Number, flag, option, section
from jaxdlm.distribution import install
from jaxdlm.errors import InputError

PORT = Number(argument.whole(0, 65535))
HOST = "127.0.0.1"


@click.command(
    cls=Command,
    epilog="""\b
    Examples:
      jaxdlm serve tiny
      curl -s 127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"prompt": "reverse : [ Alan , Kate , Omar ]", "max_tokens": 16}'""",
)
@click.argument("model", metavar="MODEL")
@section(
    "Where",
    option("--host", default=HOST, metavar="H", help="address to listen on; one that others reach needs a key"),
    option("--port", type=PORT, default=8000, metavar="P", help="0: any that is free"),
    option("--api-key-file", metavar="FILE", help="keys, one per line; also JAXDLM_API_KEY"),
    option("--name", metavar="NAME", show_default="the model's", help="of the model in requests and answers"),
)
@section(
    "Decoding",
    command.policy,
    command.cache,
    command.max_new(f"the model's own, else {command.MAX_NEW}", COUNT),
    command.block("the model's own, else that of decode", COUNT),
    option("--slots", type=ROWS, default=16, metavar="N", help="answers on each replica of the model at a time"),
    option("--mesh", metavar="AXIS=N,...", show_default="one replica", help="devices, as data=2,tensor=2"),
    option("--seed", type=command.SEED, metavar="S", show_default="a fresh one", help="of requests that state none"),
    flag("--choose", help="requests may name a policy of their own: field policy, and the page at /"),
    command.stop,
    command.no_stop,
    command.raw,
    *command.chatting,
)
@section(
    "Limits",
    option("--queue", type=COUNT, default=256, metavar="N", help="answers that wait for a slot; more get 429"),
    option("--connections", type=COUNT, default=512, metavar="N", help="more get 503"),
    option("--body", type=COUNT, default=1 << 22, metavar="BYTES", help="of a request"),
    option("--most-prompt", type=COUNT, metavar="N", show_default="what the model reads", help="tokens of a prompt"),
    option("--most-new", type=COUNT, metavar="N", show_default="8 times --max-new", help="columns of an answer"),
    option("--most-answers", type=COUNT, default=128, metavar="N", help="of one request"),
    option(
        "--patience", type=SECONDS, default=60.0, metavar="SECONDS", help="for a client that sends or reads nothing"
    ),
    option("--grace", type=SECONDS, default=30.0, metavar="SECONDS", help="how long a stop by SIGTERM may take"),
    flag("--quiet", help="nothing on stderr but warnings"),
)
def serve(
    model: str, host: str, port: int, api_key_file: str | None, policy: str | None, cache: str, mesh: str | None,
    stop: tuple[str, ...], no_stop: bool, system: str | None, tools: str | None, chat_template_kwargs: str | None,
    connections: int, patience: float, grace: float, quiet: bool, **rest: Any,
) -> int:  # fmt: skip
    """Answer requests as OpenAI's clients send them: chat, completions, decisions and models, under /v1.

    Needs the extra `serve`. SIGTERM and Ctrl-C finish what is under way and take nothing new.
    """
    try:
        from jaxdlm.serve.server import files_for, listening, make_server
    except ModuleNotFoundError as error:
        raise InputError(f"jaxdlm serve needs {error.name}: {install('serve')}") from None
    import jaxdlm as jd
    from jaxdlm import policies as methods
    from jaxdlm._load import describe
    from jaxdlm.batch.cli import make_mesh, read_policies
    from jaxdlm.resolve import resolve_cache
    from jaxdlm.serve.app import create_app
    from jaxdlm.serve.keys import LOOPBACK, check_open, read_keys

    keys = read_keys(api_key_file)
    check_open(host, keys)
    ends, chat = command.stopping(stop, no_stop), command.chat(system, tools, chat_template_kwargs)
    words = methods.default(describe(model).config) if policy is None else policy
    policies, resolved = read_policies(words), resolve_cache(cache)
    files_for(connections)
    sock = listening(host, port, patience)
    try:
        devices = make_mesh(mesh or "data=1")
        lm = jd.load(model, mesh=devices)
        service = _service(lm, policies, resolved, devices, ends, chat, connections, patience, rest)
        app = create_app(service, keys, local=host in LOOPBACK)
        server = make_server(app, patience=patience, connections=connections, grace=grace, quiet=quiet)
        service.on_failure = lambda: setattr(server, "should_exit", True)
        if not quiet:
            click.echo(f"# {service.name} at http://{host}:{sock.getsockname()[1]}/v1", err=True)
        server.run([sock])
    finally:
        sock.close()
    if service.scheduler.failure is not None:
        raise service.scheduler.failure
    return command.OK


def _service(
    lm: Any, policies: Any, cache: Any, mesh: Any, stop: Any, chat: Any, connections: int, patience: float, rest: dict[str, Any]
) -> Any:  # fmt: skip
    """The service that the options describe."""
    from jaxdlm.batch.cli import shape_of
    from jaxdlm.serve.reading import Limits
    from jaxdlm.serve.service import Service

    shape = shape_of(rest, lm.defaults, policies.plain)
    limits = Limits(
        body=rest["body"], prompt=rest["most_prompt"] or lm.config.max_position, new=rest["most_new"] or 8 * shape["max_new"],
        answers=rest["most_answers"], queue=rest["queue"], connections=connections, patience=patience,
    )  # fmt: skip
    return Service(
        lm, policies, cache, **shape, mesh=mesh, slots=rest["slots"], name=rest["name"],
        seed=rest["seed"], raw=rest["raw"], stop=stop, chat=chat, limits=limits,
        choose=rest["choose"],
    )  # fmt: skip
