# Observers: trained networks, checked before they judge anything; their scores of random crops of real images.
rule observe:
    input:
        unpack(guarded("observe", observe_inputs)),
    output:
        manifest="results/observers/{observer}/observer.json",
        table="results/observers/{observer}/confusion.csv",
        run="results/observers/{observer}/observer.run.json",
    log:
        "results/logs/observe/{observer}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=60,
    params:
        spec=spec_of("observe"),
        source=lambda w, input: options(input, "block", "weights"),
    shell:
        "python -m ddlib.jobs.observe --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} {params.source} --table {output.table:q} --output {output.manifest:q}"
        " --run {output.run:q} 2>&1 | tee {log:q}"


rule score:
    input:
        unpack(
            guarded(
                "score",
                lambda w: {"train": train_of(w.dataset), "observer": f"results/observers/{w.observer}/observer.json"},
            )
        ),
    output:
        manifest="results/scores/{dataset}/{observer}/mipc{mipc}_crops{crops}_factor{factor}/seed{seed}/scores.json",
        run="results/scores/{dataset}/{observer}/mipc{mipc}_crops{crops}_factor{factor}/seed{seed}/scores.run.json",
    log:
        "results/logs/score/{dataset}/{observer}/mipc{mipc}_crops{crops}_factor{factor}/seed{seed}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=24 * 60,
    params:
        spec=spec_of("score"),
    shell:
        "python -m ddlib.jobs.score --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} --observer {input.observer:q} --output {output.manifest:q} --run {output.run:q}"
        " 2>&1 | tee {log:q}"
