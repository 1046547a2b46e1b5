# Paths, the checked study, wildcard patterns, and functions that several rules use.

ROOT = Path(workflow.basedir)
SCRIPTS = ROOT / "workflow" / "scripts"
CONFIG_KEYS = ("study", "organism")


def read_config():
    """Return path, study and models for --config study=NAME or a path. An error is one line and exit code 1."""
    try:
        for key in config:
            if key not in CONFIG_KEYS:
                raise AtpError(
                    f"--config {key}: unknown key, allowed are {', '.join(CONFIG_KEYS)}"
                )
        if config.get("organism", "shipped") not in ("shipped", "rebuild"):
            raise AtpError(
                f"--config organism: found '{config['organism']}', allowed are shipped, rebuild"
            )
        named = str(config.get("study", "demo"))
        path = (
            Path(named)
            if named.endswith((".yaml", ".yml"))
            else ROOT / f"config/studies/{named}.yaml"
        )
        study = read_study(path, ROOT)
        check_files(path, study, ROOT)
        models = read_models(settings_of.agents(study), ROOT / "config/models")
        check_models(path, study, models, ROOT)
        return path, study, models
    except Exception as error:
        line = str(error) if isinstance(error, AtpError) else plugin_error(error)
        if line is None:
            raise
        print(f"atp: {line}", file=sys.stderr)
        sys.exit(1)


STUDY_FILE, STUDY, MODELS = read_config()
RESULTS = f"results/{STUDY_FILE.stem}"
CELL = f"{RESULTS}/{{model}}/{{testbed}}/{{alignment}}/seed{{seed}}/{{condition}}"
REBUILD = config.get("organism") == "rebuild"
ORGANISM = "results/organism" if REBUILD else str(ROOT / "resources/organism")


wildcard_constraints:
    model=r"[^/]+",
    testbed=r"[a-z0-9_]+",
    alignment=r"[a-z]+",
    condition=r"[^/]+",
    seed=r"\d+",
    g=r"\d+",
    place=r"context|generation\d+",
    kind=r"turns|evaluation",
    k=r"\d+",
    n=r"\d+",


#: With --cache, outputs of the same inputs, params and code are read from $SNAKEMAKE_OUTPUT_CACHE, and new ones are
#: stored there.
SHARED = "omit-software" if workflow.workflow_settings.cache is not None else False


if SHARED and not Path(os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")).is_dir():
    print(
        "atp: --cache: SNAKEMAKE_OUTPUT_CACHE must be an existing folder",
        file=sys.stderr,
    )
    sys.exit(1)


def code(script):
    """Return an input function: the digest of the code of a stage's script, testbed and extensions.

    A change of this code runs the job again.
    """
    path = str(SCRIPTS / f"{script}.py")
    return lambda wildcards: code_digest(
        path,
        *sources(wildcards.testbed, script),
        *installed_code(used_extensions(wildcards)),
    )


def code_of_filter(wildcards):
    """Return the digest of the code of the filter stage, and of the filter if an installed package defines it."""
    return code_digest(
        str(SCRIPTS / "filter.py"), *installed_code(used_filter(wildcards))
    )


def code_of_all(script, kind):
    """Return the digest of the code of a stage's script, all testbeds of the study, and all extensions of a kind."""
    testbeds = [sources(testbed, script) for testbed in STUDY.testbeds]
    return code_digest(
        str(SCRIPTS / f"{script}.py"),
        *dict.fromkeys(sum(testbeds, [])),
        *origins(kind),
    )


PLUGINS = [str(ROOT / file) for file in STUDY.plugins]


def used_extensions(wildcards):
    """Return the registered entries that a job uses: its testbed and the tools it offers, its agent and its filter."""
    section = STUDY.testbeds[wildcards.testbed]
    offered = settings_of.offered_tools(wildcards.testbed, section)
    used = [
        find("testbeds", wildcards.testbed),
        *(find("tools", tool) for tool in sorted(offered)),
    ]
    name = wildcards.get("model", "").split(":")
    if name[0] == "agent":
        used.append(find("agents", name[1]))
    if name[0] == "scripted" and name[1] in entries("policies"):
        used.append(find("policies", name[1]))
    return used + used_filter(wildcards)


def used_filter(wildcards):
    """Return the entry of the filter of a job's condition, if it has one."""
    section = STUDY.testbeds[wildcards.testbed]
    if not section.weights or "condition" not in wildcards.keys():
        return []
    settings = section.learning(wildcards.condition).filter
    return [find("filters", settings.name)] if settings else []


def plugin_files(wildcards):
    """Return the plug-in files that a job uses."""
    return sorted({str(each.file) for each in used_extensions(wildcards) if each.file})


def installed_code(extensions):
    """Return the modules of installed packages that define extensions."""
    return sorted(
        {each.origin for each in extensions if not (each.file or each.built_in)}
    )


def cells(channel):
    """Return the testbed's section and the path of each cell that the study runs on a channel."""
    return [
        (
            section,
            CELL.format(
                model=model,
                testbed=testbed,
                alignment=alignment,
                seed=seed,
                condition=condition,
            ),
        )
        for testbed, section in STUDY.testbeds.items()
        if getattr(section, channel)
        for condition in getattr(section, channel).conditions
        for model, alignment in settings_of.players(STUDY, getattr(section, channel))
        for seed in STUDY.seeds
    ]


def local_model(wildcards):
    """Return the folder of a local model; None for a model of the hub, or an agent without a model."""
    spec = MODELS[wildcards.model]
    if spec is None:
        return None
    if spec.organism:
        return f"{ORGANISM}/{wildcards.testbed}"
    folder = ROOT / spec.path
    return str(folder) if folder.is_dir() else None


def model_files(wildcards):
    """Return the files of a local model, because a cache compares files; the folder itself if a job builds it."""
    folder = local_model(wildcards)
    if folder is None or (REBUILD and MODELS[wildcards.model].organism):
        return [folder] if folder else []
    return sorted(str(path) for path in Path(folder).glob("[!.]*") if path.is_file())


def model_params(wildcards):
    """Return a model's settings without its resources, and without its folder, which is an input."""
    spec = MODELS[wildcards.model]
    machine = {"mem_mb", "minutes", "gpus", "base_url", "timeout"} | (
        {"path"} if local_model(wildcards) else set()
    )
    return spec and spec.model_dump(mode="json", exclude=machine)


def growing(amount):
    """Return a resource function: memory in MB or time in minutes, more for each retry."""
    return lambda wildcards, attempt: amount * attempt


def model_memory(wildcards, attempt):
    """Return the memory in MB of a job that loads the model."""
    spec = MODELS[wildcards.model]
    return (spec.mem_mb if spec else 1000) * attempt


def model_minutes(wildcards, attempt):
    """Return the time limit in minutes of a job that loads the model."""
    spec = MODELS[wildcards.model]
    return (spec.minutes if spec else 30) * attempt


def model_gpus(wildcards):
    """Return the GPUs of a job that loads the model."""
    spec = MODELS[wildcards.model]
    return spec.gpus if spec else 0


def cell_params(wildcards):
    """Return the keys of a cell, as in its turns."""
    keys = ("model", "testbed", "alignment", "condition")
    return {key: wildcards[key] for key in keys} | {"seed": int(wildcards.seed)}
