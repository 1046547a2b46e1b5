# Does an aligned agent stay aligned once it learns from its own rewards?
#
#   results/{study}/{testbed}/scenarios.parquet                         scenarios
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/
#       pairs.parquet                                                   preference pairs, for dpo
#       adapter/                                                        the aligned agent; not for alignment "none"
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/{condition}/
#       context/turns.parquet                                           R rounds with history, test split
#       generation{g}/turns.parquet                                     deployment on new training scenarios
#       generation{g}/selection.parquet                                 replies that the reward filter selected
#       generation{g}/adapter/                                          trained on the selection of generation g - 1
#       generation{g}/evaluation.parquet                                test split, empty history
#   .../turns.shard{k}of{n}.parquet, evaluation.shard{k}of{n}.parquet   shards of a large rollout, removed in the end
#   results/{study}/measures.parquet, figures/, report.html
#   results/organism/{testbed}/                                         model organisms, if they are rebuilt
#
# A study is a file of config/studies: snakemake --cores all --config study=demo
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from atp.errors import AtpError
from atp.files.code import code_digest
from atp.registry import entries, find, find_testbed, origins, plugin_error, sources
from atp.rollout.transplant import HISTORY_FROM, HistorySource
from atp.study import sizes
from atp.study import study as settings_of
from atp.study.checks import check_files, check_models
from atp.study.read import read_models, read_study


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/scenarios.smk"
include: "workflow/rules/organism.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/rollout.smk"
include: "workflow/rules/transplant.smk"
include: "workflow/rules/filter.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",


if SHARED:  # Snakemake has no benchmarks of cached outputs; their metadata has the cost
    for each in workflow.rules:
        if each.cache.output:
            each._benchmark = None
