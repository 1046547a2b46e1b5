# What rules are made from and given: input functions and params. Files of rules hold rules alone, as `snakemake --lint`
# asks.
ALIGNED = f"{RESULTS}/{{model}}/{{testbed}}/{{alignment}}/seed{{seed}}"


def scenario_files(wildcards):
    """What scenarios are made from, but for problem sets."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    files = source_files(settings, wildcards.testbed, ROOT)
    return [str(path) for path in files[: len(files) - len(settings.set_files)]]


def set_files(wildcards):
    """Problem sets that are files, by the kind of their problems."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    return {kind: str(ROOT / file) for kind, file in settings.set_files.items()}


def scenario_params(wildcards):
    """The settings without files, which are inputs; a problem set is found by its path from here."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    params = settings.model_dump(exclude={"path", "templates"})
    for kind, file in set_files(wildcards).items():
        params[kind]["path"] = file
    return params


def alignment_params(wildcards):
    """Testbed, its settings and the rows of the training split that alignment takes."""
    section = STUDY.testbeds[wildcards.testbed]
    return {
        "testbed": wildcards.testbed,
        "settings": {**section.settings, "rounds": 1},
        "limit": list(atp_config.alignment_rows(section)),
        "seed": int(wildcards.seed),
    }


def aligned(alignments, name):
    """Files of a name for every model, testbed and seed that is aligned in one of these ways."""
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
    """The adapter of generation g of a cell; of generation 0 that of its alignment, which none has not."""
    if g:
        return [f"{CELL}/generation{g}/adapter".format(**wildcards)]
    return (
        []
        if wildcards.alignment == "none"
        else [f"{ALIGNED}/adapter".format(**wildcards)]
    )


def asked(wildcards, place, kind="turns"):
    """What the rollout at a place of a cell plays: the keys of its turns, its variants, and which scenarios."""
    section = STUDY.testbeds[wildcards.testbed]
    cell = cell_params(wildcards)
    if place == "context":
        return {
            "cell": {**cell, "channel": "context", "generation": 0},
            "variants": atp_config.variants(section, wildcards.arm),
            "split": "test",
            "samples": section.context.samples,
            "limit": None,
        }
    g = int(place.removeprefix("generation"))
    cell |= {"channel": "weights", "generation": g}
    if kind == "evaluation":
        return {
            "cell": cell,
            "variants": {"evaluation": atp_config.evaluation(section)},
            "split": "test",
            "samples": section.weights.evaluation.samples,
            "limit": None,
        }
    fresh = section.weights.scenarios
    return {
        "cell": cell,
        "variants": {"deployment": atp_config.deployment(section, wildcards.arm)},
        "split": "train",
        "samples": section.weights.samples,
        "limit": [g * fresh, (g + 1) * fresh],
    }


def shards(wildcards, place, kind="turns"):
    """Files of a rollout's shards; none where one job plays it all."""
    size = place if place == "context" else "deployment" if kind == "turns" else kind
    episodes = sizes.episodes(STUDY.testbeds[wildcards.testbed], wildcards.arm, size)
    count = sizes.shards(STUDY, MODELS[wildcards.model], episodes)
    stem = f"{CELL}/{place}/{kind}".format(**wildcards)
    numbers = range(1, count + 1) if count > 1 else ()
    return [f"{stem}.shard{k}of{count}.parquet" for k in numbers]


def played_from(wildcards, place):
    """Scenarios, and who plays them."""
    g = 0 if place == "context" else int(place.removeprefix("generation"))
    return {
        "scenarios": f"{RESULTS}/{wildcards.testbed}/scenarios.parquet",
        "model": model_files(wildcards),
        "adapter": adapter(wildcards, g),
    }


def memory(wildcards):
    """Turns whose histories a cell reads."""
    named = STUDY.testbeds[wildcards.testbed].arms[wildcards.arm][MEMORY]
    model, alignment, arm = Memory(**named).of(wildcards.model, wildcards.alignment)
    cell = {**wildcards, "model": model, "alignment": alignment, "arm": arm}
    return f"{CELL}/context/turns.parquet".format(**cell)


def whole(wildcards, place, kind="turns"):
    """What a whole rollout is made from: its shards, or what it is played from."""
    found = shards(wildcards, place, kind)
    return {"shards": found} if found else played_from(wildcards, place)


def rollout_gpus(wildcards, place, kind="turns"):
    return 0 if shards(wildcards, place, kind) else model_gpus(wildcards)


def learning(wildcards):
    """How a cell learns in its weights."""
    return STUDY.testbeds[wildcards.testbed].learning(wildcards.arm)


def learned_from(wildcards):
    """What generation g - 1 left to learn from: what the filter kept, or, for GRPO, all its turns."""
    kept = learning(wildcards).filter
    name = "selection" if kept else "turns"
    g = int(wildcards.g) - 1
    return f"{CELL}/generation{g}/{name}.parquet".format(**wildcards)


def replayed(wildcards):
    """Preference pairs that an arm mixes into what is learned: those of the model itself, whatever its alignment."""
    if not STUDY.testbeds[wildcards.testbed].needs_pairs(wildcards.arm):
        return []
    return f"{ALIGNED}/pairs.parquet".format(**{**wildcards, "alignment": "dpo"})


def first_unused(wildcards):
    """First row of the training split that nothing learns from, for arms whose training is undone by what is heard."""
    if "most_rise" not in learning(wildcards).training.defences:
        return None
    return atp_config.alignment_rows(STUDY.testbeds[wildcards.testbed])[1]
