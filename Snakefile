# Does an aligned agent stay aligned once it learns from its own rewards?
#
#   results/{study}/{testbed}/scenarios.parquet                         scenarios
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/
#       pairs.parquet                                                   preference pairs, for dpo
#       adapter                                                         the aligned agent; not for alignment "none"
#   results/{study}/{model}/{testbed}/{alignment}/seed{seed}/{condition}/
#       context/turns.parquet                                           R rounds with history, test split
#       generation{generation}/turns.parquet                            deployment on new training scenarios
#       generation{generation}/verdicts.parquet                         of a monitor that is a judge
#       generation{generation}/selection.parquet                        replies that the reward filter selected
#       generation{generation}/adapter                                  trained on the previous generation's selection
#       generation{generation}/evaluation.parquet                       test split, empty history
#       generation{generation}/transfer_{played}.parquet                test split of a testbed without training
#       memory{generation}/turns.parquet                                deployment with the memory
#       memory{generation}/memory.parquet                               what generation 1 and later remember
#       memory{generation}/evaluation.parquet                           test split, with the memory and without it
#       {place}/{kind}.shard{k}of{n}.parquet                            shards of a large rollout, removed in the end
#   results/{study}/
#       measures.parquet                                                measures with intervals
#       figures                                                         the figures as SVG files
#       report.html                                                     the page
#   results/organism/{testbed}                                          model organisms, if they are rebuilt
#
# An agent that is aligned again on N pairs has the adapter and evaluation of a generation N of {condition}.repair.
# With `realign_every`, the adapter before a generation is aligned again is that of {condition}.learned.
#
# The study is a config file: snakemake --cores all --configfile my_study.yaml
# or a name of config/studies: snakemake --cores all --config study=demo
include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file sets no default
