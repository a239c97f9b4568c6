"""The job files are whole: they parse, and their commands have the flags that the command line has."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fewshot_jax.cli.train import Arguments

JOBS = Path(__file__).parents[1] / "configs" / "jobs"
FLAGS = {name.replace("_", "-") for name in Arguments.__dataclass_fields__}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_parses():
    subprocess.run(["bash", "-n", str(JOBS / "slurm.sh")], check=True)


def test_the_kubernetes_file_names_one_service_in_both_parts():
    service, job = yaml.safe_load_all((JOBS / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert int(environment["PROCESSES"]) == job["spec"]["completions"]
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:1234" in container["command"][-1]


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes.yaml"])
def test_their_flags_exist(name):
    text = (JOBS / name).read_text(encoding="utf-8")
    command = text[text.index("fewshot-jax train ") :] if name == "kubernetes.yaml" else text[text.index("srun ") :]
    command = command.partition("env:" if name == "kubernetes.yaml" else "\n")[0].partition("fewshot-jax train")[2]
    used = set(re.findall(r"--([a-z-]+)", command))
    assert used and used <= FLAGS, used - FLAGS
