# Which results a table or figure reads, and the files that it consists of.

STUDY = EXPERIMENT.study
FIRST = EXPERIMENT.seeds[:1]
"""The seed of the study but for Table 7."""


def results_of(one, full, methods, settings, seeds, **places):
    """The results of methods that the rules `one` and `full` write, of the latter once for all settings and seeds."""
    quantized = [method for method in methods if method != FULL]
    whole = expand(full, **places) if FULL in methods else []
    weights = EXPERIMENT.rounding.weights
    return whole + expand(one, method=quantized, setting=settings, seed=seeds, weights=weights, **places)


def perplexities(methods, settings, seeds, model=tuple(EXPERIMENT.models)):
    """Perplexities of methods, on every text."""
    full, one = rules.perplexity_full.output[0], rules.perplexity.output[0]
    return results_of(one, full, methods, settings, seeds, model=model, corpus=EXPERIMENT.corpora)


def accuracies(methods, settings, seeds):
    """Accuracies of methods, on every task."""
    full, one = rules.zero_shot_full.output.result, rules.zero_shot.output.result
    return results_of(one, full, methods, settings, seeds, model=EXPERIMENT.models, task=EXPERIMENT.tasks)


def results_of_table(table, methods, seeds):
    """The results that a table of the study reads: perplexities, and accuracies where it asks for them."""
    of = (methods, EXPERIMENT.settings_of(table), seeds)
    return {"results": perplexities(*of), "zero_shot": accuracies(*of) if table.zero_shot else []}


def results_of_table3(wildcards):
    if not EXPERIMENT.tasks:
        raise WorkflowError("Table 3 needs `tasks` in the configuration; config.yaml has those of the paper")
    return accuracies(EXPERIMENT.zero_shot_methods, EXPERIMENT.settings_of(EXPERIMENT.zero_shot), EXPERIMENT.seeds)


def results_of_table6(wildcards):
    """The perplexities that Table 6 needs: of the learned selection, and once of each distinct point."""
    results = perplexities(["learned"], EXPERIMENT.settings_of(STUDY.table6), FIRST)
    for model in EXPERIMENT.models:
        first = read_distinct(checkpoints.distinct.get(model=model).output[0])
        needed = dict.fromkeys(method_of_policy(first[point]) for point in EXPERIMENT.grid.named)
        results += perplexities(needed, EXPERIMENT.settings_of(STUDY.table6), FIRST, model)
    return results


def selections(policies, table):
    """Selection files of these policies; of those that measure, at the settings of a table."""
    measured = [policy for policy in policies if policy in MEASURED_POLICIES]
    others = [policy for policy in policies if policy not in MEASURED_POLICIES]
    models, settings = EXPERIMENT.models, EXPERIMENT.settings_of(table)
    return [
        *expand(rules.select_by_scores.output, model=models, setting=settings, seed=FIRST, policy=measured),
        *expand(rules.select.output, model=models, policy=others),
    ]


def study_flags(table, methods, seeds=FIRST):
    """What a table of the study says of its protocol."""
    return to_flags(protocol.study(EXPERIMENT, table, methods, seeds))


def figure_flags(policy):
    """What a figure of the learned selection or the oracle is told."""
    return f"{to_flags(EXPERIMENT.selection.heuristic)} {to_flags(protocol.banks(EXPERIMENT, [policy], FIRST))}"


def report_file(name, file, form):
    """A file of a table or figure that `snakemake --report` lists under its heading."""
    kind = "figure" if name.startswith("figure") else "table"
    labels = {kind: str(HEADINGS[name]).removesuffix("."), "as": form}
    return report(f"results/{file}", caption=f"captions/{name}.rst", category=f"{kind.title()}s", labels=labels)


def files_of(name, **main):
    """The outputs of a table or figure: `main`, its protocol in two forms, and its record."""
    return {
        **main,
        "protocol": f"results/{name}.protocol.md",
        "page": report_file(name, f"{name}.protocol.html", "protocol"),
        "record": f"results/{name}.json",
    }


def files_of_table(name):
    """The outputs of a table: its numbers, and the table to read in three forms."""
    return files_of(
        name,
        csv=report_file(name, f"{name}.csv", "numbers (CSV)"),
        png=report_file(name, f"{name}.png", "image"),
        markdown=f"results/{name}.md",
        latex=f"results/{name}.tex",
    )


def files_of_figure(name, **more):
    """The outputs of a figure: itself in two forms, and the points behind it."""
    png = report_file(name, f"{name}.png", "image")
    return files_of(name, pdf=f"results/{name}.pdf", png=png, points=f"results/{name}.csv", **more)
