# Students trained on a synthetic set and scored on the test data: one job per set, protocol and group of students.
def evaluate_inputs(wildcards):
    entry = PLAN.experiments[wildcards.experiment]
    data = f"results/data/{entry['dataset']}"
    if entry["method"] == "whole":
        return {"source": f"{data}/train.json", "test": f"{data}/test.json"}
    card = "results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}card.json".format(**dict(wildcards))
    return {"source": card, "test": f"{data}/test.json"}


rule evaluate:
    input:
        unpack(
            guarded(
                "evaluate",
                "results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.json",
                evaluate_inputs,
            )
        ),
    output:
        manifest="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.json",
        table="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.csv",
        run="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.run.json",
    params:
        spec=spec_of("evaluate"),
    threads: THREADS
    resources:
        gpu=1,
        machine=MACHINE,
        mem_mb=8000,
        runtime=12 * 60,
    log:
        "results/logs/evaluate/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.log",
    conda:
        "../../envs/ddlib.yaml"
    shell:
        "python -m ddlib.jobs.evaluate --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --source {input.source:q} --test {input.test:q}"
        " --table {output.table:q} --output {output.manifest:q} --run {output.run:q} 2>&1 | tee {log:q}"
