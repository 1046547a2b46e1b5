# The study, its jobs, and functions that look up what a rule needs for one of them.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
IS_MODULE = Path(workflow.main_snakefile).resolve() not in (
    ROOT / "Snakefile",
    ROOT / "workflow/Snakefile",
)


def read_config():
    """Return the study of the config. An error is one line."""
    if IS_MODULE and not config:
        raise WorkflowError(
            "atp: the module has no config; give it one with `config:`, a study or {'study': NAME}"
        )
    files = [Path(file) for file in workflow.configfiles]
    # A module's config need not be the whole one, so other keys on the command line are for other workflows.
    arguments = [
        argument
        for argument in workflow.config_settings.config_args or ()
        if not IS_MODULE or argument.partition("=")[0] in config
    ]
    try:
        project = read_project(
            (
                config
                if IS_MODULE or {"study", "testbeds"} & config.keys()
                else {"study": "demo", **config}
            ),
            ROOT,
            files[-1] if files else None,
            arguments,
        )
        check_results(project)
        return project
    except Exception as error:
        line = str(error) if isinstance(error, AtpError) else plugin_error(error)
        if line is None:
            raise
        raise WorkflowError(f"atp: {line}") from None


PROJECT = read_config()
STUDY = PROJECT.study
RESULTS = f"results/{PROJECT.name}"
STEPS = study_jobs(PROJECT)


wildcard_constraints:
    **paths.WILDCARDS,


#: With --cache, outputs of the same inputs, params and code are read from $SNAKEMAKE_OUTPUT_CACHE, and new ones are
#: stored there.
SHARED = "omit-software" if workflow.workflow_settings.cache is not None else False


def lookup(pattern, wildcards):
    """Return the job that makes the output of a pattern with these wildcards."""
    path = pattern.format(**wildcards)
    if path not in STEPS:
        raise WorkflowError(
            f"atp: {RESULTS}/{path}: study '{PROJECT.name}' has no such output"
        )
    return STEPS[path]


def inputs(pattern):
    """Return the function of a rule's inputs: outputs of other rules, the model's files, and plug-ins."""

    def of(wildcards):
        step = lookup(pattern, wildcards)
        made = {
            name: [f"{RESULTS}/{path}" for path in files]
            for name, files in step.artifacts.items()
        }
        model = PROJECT.model_files(step.model) if step.jobs else []
        return made | step.files | {"model": model, "plugins": step.plugins}

    return of


def params(pattern):
    """Return a rule's params: the stage, its jobs as JSON, and the digest of their code."""
    return {
        "stage": lambda wildcards: lookup(pattern, wildcards).stage,
        "jobs": lambda wildcards: [
            job.model_dump_json() for job in lookup(pattern, wildcards).jobs
        ],
        "code": lambda wildcards: lookup(pattern, wildcards).code,
    }


def resources(pattern):
    """Return a rule's resources. A retry gets more memory and time."""

    def of_server(key, default):
        return (
            lambda wildcards: getattr(lookup(pattern, wildcards).model, key, None)
            or default
        )

    return {
        "mem_mb": lambda wildcards, attempt: attempt
        * lookup(pattern, wildcards).memory_mb,
        "runtime": lambda wildcards, attempt: attempt
        * lookup(pattern, wildcards).minutes,
        "gpu": lambda wildcards: lookup(pattern, wildcards).gpus,
        "primary": primary_digest(STUDY.primary),
        "base_url": of_server("base_url", ""),
        "timeout": of_server("timeout", 0),
    }


def only(rule):
    """Return a constraint of the wildcard `model` that matches only paths of a rule's testbeds, conditions and places."""
    ways = {
        rf"{testbed}/[^/]+/[^/]+/{re.escape(condition)}/{place}"
        for step in STEPS.values()
        if step.rule == rule
        for _, testbed, _, _, condition, place, _ in [step.outputs[0].split("/")]
    }
    return rf"(?=[^/]+/({'|'.join(sorted(ways)) or '(?!)'})/)[^/]+"


def outputs(*rules):
    """Return the outputs of all jobs of some rules."""
    return [
        f"{RESULTS}/{path}"
        for step in STEPS.values()
        if step.rule in rules
        for path in step.outputs
    ]


PRELOADED = []


def start_preloaded():
    """Begin a process that imports what jobs on this machine's CPU need, if there are any."""
    if workflow.local_exec and any(
        step.model and not step.gpus for step in STEPS.values()
    ):
        PRELOADED.append(start())


def stop_preloaded():
    """End it."""
    for process in PRELOADED:
        stop(process)
