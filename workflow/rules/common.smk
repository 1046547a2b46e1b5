# Paths, the checked study, and wildcard patterns. Input functions live beside the rule that uses them.

ROOT = Path(workflow.basedir)
SCRIPTS = ROOT / "workflow" / "scripts"
CONFIG_KEYS = ("study", "organism")


def read_config():
    """(study name, study, models) of --config study=NAME or a path; one line and exit code 1 if it is not right."""
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
        study = atp_config.read_study(path)
        atp_config.check_files(path, study, ROOT)
        models = atp_config.read_models(
            atp_config.played(study), ROOT / "config/models"
        )
        atp_config.check_models(path, study, models, ROOT)
        return path, study, models
    except AtpError as error:
        print(f"atp: {error}", file=sys.stderr)
        sys.exit(1)


STUDY_FILE, STUDY, MODELS = read_config()
RESULTS = f"results/{STUDY_FILE.stem}"
CELL = f"{RESULTS}/{{model}}/{{testbed}}/{{alignment}}/seed{{seed}}/{{arm}}"
REBUILD = config.get("organism") == "rebuild"
ORGANISM = "results/organism" if REBUILD else str(ROOT / "resources/organism")


wildcard_constraints:
    model=r"[^/]+",
    testbed=r"[a-z_]+",
    alignment=r"[a-z]+",
    arm=r"[^/]+",
    seed=r"\d+",
    g=r"\d+",
    place=r"context|generation\d+",
    kind=r"turns|evaluation",
    k=r"\d+",
    n=r"\d+",


#: With --cache, what others have made of the same inputs, params and code is taken from $SNAKEMAKE_OUTPUT_CACHE, and what
#: is made is put there.
SHARED = "omit-software" if workflow.workflow_settings.cache is not None else False


if SHARED and not Path(os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")).is_dir():
    print(
        "atp: --cache: SNAKEMAKE_OUTPUT_CACHE must name a folder that is there",
        file=sys.stderr,
    )
    sys.exit(1)


def code(stage):
    """Digest of the sources that a stage's script imports: a change there, and nowhere else, runs the stage again."""
    return code_digest(str(SCRIPTS / f"{stage}.py"))


def cells(channel):
    """(testbed's section, path of the cell) for each cell that the study runs on a channel."""
    return [
        (
            section,
            CELL.format(
                model=model, testbed=testbed, alignment=alignment, seed=seed, arm=arm
            ),
        )
        for testbed, section in STUDY.testbeds.items()
        if getattr(section, channel)
        for arm in getattr(section, channel).arms
        for model, alignment in atp_config.players(STUDY, getattr(section, channel))
        for seed in STUDY.seeds
    ]


def local_model(wildcards):
    """Folder of a model that is not taken from a hub, or None."""
    spec = MODELS[wildcards.model]
    if spec is None:
        return None
    if spec.organism:
        return f"{ORGANISM}/{wildcards.testbed}"
    folder = ROOT / spec.path
    return str(folder) if folder.is_dir() else None


def model_files(wildcards):
    """What a model's folder holds, where it has one: a cache goes by the content of files. What a job makes is a folder."""
    folder = local_model(wildcards)
    if folder is None or (REBUILD and MODELS[wildcards.model].organism):
        return [folder] if folder else []
    return sorted(str(path) for path in Path(folder).glob("[!.]*") if path.is_file())


def model_params(wildcards):
    """A model's settings without its machine's needs, and without its folder, which is an input."""
    spec = MODELS[wildcards.model]
    machine = {"mem_mb", "minutes", "gpus", "base_url", "timeout"} | (
        {"path"} if local_model(wildcards) else set()
    )
    return spec and spec.model_dump(mode="json", exclude=machine)


def growing(amount):
    """A job's memory in MB or time in minutes, more each time it is tried again."""
    return lambda wildcards, attempt: amount * attempt


def model_memory(wildcards, attempt):
    spec = MODELS[wildcards.model]
    return (spec.mem_mb if spec else 1000) * attempt


def model_minutes(wildcards, attempt):
    spec = MODELS[wildcards.model]
    return (spec.minutes if spec else 30) * attempt


def model_gpus(wildcards):
    spec = MODELS[wildcards.model]
    return spec.gpus if spec else 0


def cell_params(wildcards):
    """The cell's keys, as turns carry them."""
    keys = ("model", "testbed", "alignment", "arm")
    return {key: wildcards[key] for key in keys} | {"seed": int(wildcards.seed)}
