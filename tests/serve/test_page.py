"""The playground's page: it stands alone, and a browser runs it."""

import re
import shutil

import pytest
from starlette.testclient import TestClient

import jaxdlm as jd
from jaxdlm.batch.cli import make_mesh, read_policies
from jaxdlm.resolve import resolve_cache
from jaxdlm.serve.app import create_app
from jaxdlm.serve.keys import Keys
from jaxdlm.serve.page import page
from jaxdlm.serve.server import Running, listening, make_server
from jaxdlm.serve.service import Service


def service(model: str, policy: str, choose: bool) -> Service:
    mesh = make_mesh("data=1")
    settings = {
        "max_new": 16,
        "block": 8 if policy == "threshold" else None,
        "mesh": mesh,
        "slots": 2,
        "choose": choose,
    }
    return Service(jd.load(model, mesh=mesh), read_policies(policy), resolve_cache("none"), **settings)


def test_the_page_fetches_nothing_and_runs_its_own_script_alone():
    text, headers = page()
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)|https?://[^\s\"']+", text)
    assert addresses == [("data:,", "")]
    policy = headers["Content-Security-Policy"]
    assert len(re.findall("'sha256-[^']{44}'", policy)) == 2 and "unsafe" not in policy
    assert "innerHTML" not in text and not re.search(r"<[^>]* on\w+=", text) and " style=" not in text


def test_it_offers_what_the_server_takes():
    with TestClient(create_app(service("tiny", "threshold", True), Keys(["secret-key"]))) as client:
        answer = client.get("/")
        assert answer.status_code == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert client.get("/playground.json").status_code == 401
        offered = client.get("/playground.json", headers={"Authorization": "Bearer secret-key"}).json()
        assert (offered["model"], offered["chat"], offered["columns"]) == ("tiny", True, 16)
        assert {"threshold", "low_confidence", "credit"} <= {each["name"] for each in offered["methods"]}
        assert offered["examples"] == list(jd.load("tiny").tokenizer.examples)
    with TestClient(create_app(service("tiny-ar", "autoregressive", True), Keys([]))) as client:
        assert client.get("/playground.json").json()["methods"] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["methods", "left to right"])
def test_a_browser_decodes_with_it(kind):
    """The page's own script under its own rules, on a desk and a phone: each method has its answer, its last frame is whole,
    nothing is wider than the screen, and the console is empty."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    drive = pytest.importorskip("playwright.sync_api", reason="pip install playwright, which no extra brings")
    if browser is None:
        pytest.skip("no Chromium here: install one to run the page")
    made = service("tiny", "threshold", True) if kind == "methods" else service("tiny-ar", "autoregressive", True)
    server = make_server(create_app(made, Keys([]), local=True), patience=60, connections=20, grace=5, quiet=True)
    want = jd.decode(made.lm, made.lm.tokenizer.examples[:1], max_new=16).text
    with Running(server, listening("127.0.0.1", 0, 60)) as running, drive.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (1200, 390):
            tab = chromium.new_page(viewport={"width": width, "height": 900})
            told = []
            tab.on("console", lambda message: told.append(message.text))
            tab.on("pageerror", lambda error: told.append(str(error)))
            tab.goto(f"{running.url}/#decode")
            tab.wait_for_selector("#stop:not([disabled])", timeout=60_000)
            tab.wait_for_selector("#run:not([disabled])", timeout=120_000)
            assert tab.locator(".answer").all_inner_texts() == want * (2 if kind == "methods" else 1)
            assert not tab.locator(".cell.open").count() and bool(tab.locator(".cell").count())
            assert tab.evaluate("document.documentElement.scrollWidth") == width and not told
        chromium.close()
