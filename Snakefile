# The one workflow: a notebook -> the executed notebook, its ledger and its figures. `make` calls it; so can you:
#   snakemake --cores all                                    every replication at laptop parameters
#   snakemake --cores all --config only=causal/vluci profile=paper
import shlex
import sys

from shared import record
from shared.workflow import packages, sources

PROFILE = config.get("profile", "laptop")
PYTHON = shlex.quote(sys.executable)


def needed_packages(wildcards):
    paper = record.read(sources.folder(f"{wildcards.family}/{wildcards.slug}") / "paper.yaml")
    return [str(packages.marker(name)) for name in paper.packages]


rule all:
    input:
        expand("build/{profile}/{paper}/.done", profile=PROFILE, paper=sources.papers(config.get("only") or "")),


# What is stale is told by content, through `params`: cells, method, record, weights and every imported module of shared/.
rule notebook:
    input:
        ancient(needed_packages),
    output:
        touch("build/{profile}/{family}/{slug}/.done"),
    params:
        digests=lambda wildcards: [f"{k} {v}" for k, v in sources.digests(f"{wildcards.family}/{wildcards.slug}").items()],
    shell:
        "{PYTHON} -m shared.workflow.run {wildcards.family}/{wildcards.slug} --profile {wildcards.profile}"


rule data_package:
    output:
        Path(sys.prefix) / "share" / "replications" / "{name}-{version}",
    resources:
        pip=1,
    shell:
        "{PYTHON} -m shared.workflow.packages {wildcards.name}"
