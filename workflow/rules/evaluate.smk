# Students trained on a synthetic set and scored on the test data: one job per set, protocol and group of students.
rule evaluate:
    input:
        unpack(guarded("evaluate", lambda w: PLAN.evaluate_inputs(**dict(w)))),
    output:
        manifest="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.json",
        table="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.csv",
        run="results/evaluations/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.run.json",
    log:
        "results/logs/evaluate/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{protocol}/{students}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=12 * 60,
    params:
        spec=spec_of("evaluate"),
        taught=lambda w, input: options(input, "labels", "teacher"),
    shell:
        "python -m ddlib.jobs.evaluate --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --source {input.source:q} --test {input.test:q} {params.taught}"
        " --table {output.table:q} --output {output.manifest:q} --run {output.run:q} 2>&1 | tee {log:q}"
