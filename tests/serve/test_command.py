"""The command in a process of its own, ended by a signal in the middle of an answer."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest

import jaxdlm as jd

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["tiny", "tiny-ar"])
def test_a_signal_lets_answers_end(model):
    """Status 0, and the client that was there has its whole answer; keys are in no line of the log."""
    key = "a-very-secret-key"
    command = [sys.executable, "-m", "jaxdlm", "serve", model, "--port", "0", "--max-new", "16", "--seed", "3"]
    environment = os.environ | {"JAXDLM_API_KEY": key}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://\S+/v1", process.stderr.readline())[0]
        while "startup complete" not in (line := process.stderr.readline()):
            assert line, "the server ended"
        prompt = jd.load(model).tokenizer.examples[0]
        body = {"messages": [{"role": "user", "content": prompt}], "stream": True}
        pieces = []
        began = threading.Event()

        def ask() -> None:
            how = {"json": body, "headers": {"Authorization": f"Bearer {key}"}, "timeout": 120}
            with httpx.stream("POST", f"{url}/chat/completions", **how) as answer:
                for line in answer.iter_lines():
                    pieces.append(line)
                    began.set()

        thread = threading.Thread(target=ask)
        thread.start()
        assert began.wait(60)
        process.send_signal(signal.SIGTERM)
        thread.join(120)
        log = process.stderr.read()
        assert process.wait(30) == 0, log
    assert pieces[-2] == "data: [DONE]" and key not in log
    told = [json.loads(line[6:]) for line in pieces if line.startswith("data: {")]
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in told)
    assert text == jd.decode(jd.load(model), [prompt], max_new=16, seed=3).text[0]
