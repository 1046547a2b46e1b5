# Input functions and params of rules. The files of rules contain only rules, as `snakemake --lint` recommends.
ALIGNED = f"{RESULTS}/{{model}}/{{testbed}}/{{alignment}}/seed{{seed}}"


def scenario_files(wildcards):
    """Return the files from which scenarios are generated."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    files = settings.files(find_testbed(wildcards.testbed), ROOT)
    return [str(path) for path in files]


def alignment_params(wildcards):
    """Return the arguments of alignment: testbed, settings, rows of the training split, seed, and the cell."""
    section = STUDY.testbeds[wildcards.testbed]
    seed = int(wildcards.seed)
    cell = {key: wildcards[key] for key in ("model", "testbed", "alignment")}
    return {
        "testbed": wildcards.testbed,
        "settings": {**section.settings, "rounds": 1},
        "limit": list(settings_of.alignment_rows(section)),
        "seed": seed,
        "cell": {
            **cell,
            "condition": None,
            "seed": seed,
            "channel": "weights",
            "generation": 0,
        },
    }


def aligned(alignments, name):
    """Return the paths of a file for every model, testbed and seed with one of these alignments."""
    return [
        f"{ALIGNED}/{name}".format(
            model=model, testbed=testbed, alignment=alignment, seed=seed
        )
        for testbed in STUDY.testbeds
        for model in STUDY.models
        for alignment in STUDY.alignments
        if alignment in alignments
        for seed in STUDY.seeds
    ]


def adapter(wildcards, g):
    """Return the adapter of generation g of a cell. Generation 0 has that of its alignment, or none."""
    if g:
        return [f"{CELL}/generation{g}/adapter".format(**wildcards)]
    return (
        []
        if wildcards.alignment == "none"
        else [f"{ALIGNED}/adapter".format(**wildcards)]
    )


def rollout_params(wildcards, place, kind="turns"):
    """Return the arguments of a rollout of a cell: cell, variants, split, samples, rows of the split."""
    section = STUDY.testbeds[wildcards.testbed]
    cell = cell_params(wildcards)
    if place == "context":
        return {
            "cell": {**cell, "channel": "context", "generation": 0},
            "variants": settings_of.variants(section, wildcards.condition),
            "split": "test",
            "samples": section.context.samples,
            "limit": None,
        }
    g = int(place.removeprefix("generation"))
    cell |= {"channel": "weights", "generation": g}
    if kind == "evaluation":
        return {
            "cell": cell,
            "variants": {"evaluation": settings_of.evaluation(section)},
            "split": "test",
            "samples": section.weights.evaluation.samples,
            "limit": None,
        }
    fresh = section.weights.scenarios
    return {
        "cell": cell,
        "variants": {
            "deployment": settings_of.deployment(section, wildcards.condition)
        },
        "split": "train",
        "samples": section.weights.samples,
        "limit": [g * fresh, (g + 1) * fresh],
    }


def shards(wildcards, place, kind="turns"):
    """Return the files of a rollout's shards; none if a single job plays it."""
    size = place if place == "context" else "deployment" if kind == "turns" else kind
    episodes = sizes.episodes(
        STUDY.testbeds[wildcards.testbed], wildcards.condition, size
    )
    count = sizes.shards(STUDY, MODELS[wildcards.model], episodes)
    stem = f"{CELL}/{place}/{kind}".format(**wildcards)
    numbers = range(1, count + 1) if count > 1 else ()
    return [f"{stem}.shard{k}of{count}.parquet" for k in numbers]


def rollout_inputs(wildcards, place):
    """Return the inputs of a rollout: scenarios, model, adapter and plug-ins."""
    g = 0 if place == "context" else int(place.removeprefix("generation"))
    return {
        "scenarios": f"{RESULTS}/{wildcards.testbed}/scenarios.parquet",
        "model": model_files(wildcards),
        "adapter": adapter(wildcards, g),
        "plugins": plugin_files(wildcards),
    }


def histories(wildcards):
    """Return the turns whose histories a cell reads."""
    source = STUDY.testbeds[wildcards.testbed].conditions[wildcards.condition][
        HISTORY_FROM
    ]
    model, alignment, condition = HistorySource(**source).of(
        wildcards.model, wildcards.alignment
    )
    cell = {
        **wildcards,
        "model": model,
        "alignment": alignment,
        "condition": condition,
    }
    return f"{CELL}/context/turns.parquet".format(**cell)


def whole(wildcards, place, kind="turns"):
    """Return the inputs of a whole rollout: its shards, or `rollout_inputs`."""
    files = shards(wildcards, place, kind)
    return {"shards": files} if files else rollout_inputs(wildcards, place)


def rollout_gpus(wildcards, place, kind="turns"):
    """Return the GPUs of a whole rollout: none if its shards are only gathered."""
    return 0 if shards(wildcards, place, kind) else model_gpus(wildcards)


def learning(wildcards):
    """Return the settings of the weights channel under a cell's condition."""
    return STUDY.testbeds[wildcards.testbed].learning(wildcards.condition)


def training_data(wildcards):
    """Return the training data of generation g: the selection of generation g - 1 or, for GRPO, its turns."""
    name = "selection" if learning(wildcards).filter else "turns"
    g = int(wildcards.g) - 1
    return f"{CELL}/generation{g}/{name}.parquet".format(**wildcards)


def rehearsed(wildcards):
    """Return the preference pairs that a condition rehearses: those of the model, whatever its alignment."""
    if not STUDY.testbeds[wildcards.testbed].needs_pairs(wildcards.condition):
        return []
    return f"{ALIGNED}/pairs.parquet".format(**{**wildcards, "alignment": "dpo"})


def first_unused(wildcards):
    """Return the first row of the training split that no training uses, for conditions that may undo a training."""
    if "max_violation_increase" not in learning(wildcards).training.defences:
        return None
    return settings_of.alignment_rows(STUDY.testbeds[wildcards.testbed])[1]
