# Does an aligned agent stay aligned once it learns from its own rewards?
#
#   results/{study}/{testbed}/scenarios.parquet                              what is played
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/
#       pairs.parquet                                                        for dpo: what is wanted, what is not
#       adapter/                                                             the agent as aligned; none has none
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/{arm}/
#       context/turns.parquet                                                R rounds of history, test split
#       generation{g}/turns.parquet                                          deployment on fresh training scenarios
#       generation{g}/selection.parquet                                      what the reward filter kept of them
#       generation{g}/adapter/                                               learned from generation g - 1's selection
#       generation{g}/evaluation.parquet                                     test split, empty history
#   .../turns.shard{k}of{n}.parquet, evaluation.shard{k}of{n}.parquet        parts of a large rollout, until it is whole
#   results/{study}/measures.parquet, figures/, report.html
#   results/organism/{testbed}/                                              the organism, built anew on demand
#
# A study is a file of config/studies: snakemake --cores all --config study=demo
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from atp import config as atp_config
from atp import sizes
from atp.agents.spec import SCRIPTED
from atp.errors import AtpError
from atp.provenance import code_digest
from atp.replay import MEMORY, Memory
from atp.scenarios.stage import source_files


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/scenarios.smk"
include: "workflow/rules/organism.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/rollout.smk"
include: "workflow/rules/replay.smk"
include: "workflow/rules/filter.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",


if (
    SHARED
):  # Snakemake refuses to benchmark what may come from its cache; what it cost stands in its metadata too
    for each in workflow.rules:
        if each.cache.output:
            each._benchmark = None
