# Networks trained on real data, and which of their checkpoints an experiment starts from.
rule train_block:
    input:
        unpack(
            guarded(
                "train_block",
                lambda w: {"train": train_of(PLAN.config["pools"][w.pool]["dataset"])},
            )
        ),
    output:
        manifest="results/pool/{pool}/block{block}.json",
        run="results/pool/{pool}/block{block}.run.json",
    log:
        "results/logs/train_block/{pool}/block{block}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=24 * 60,
    params:
        spec=spec_of("train_block"),
    shell:
        "python -m ddlib.jobs.train_block --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} --output {output.manifest:q} --run {output.run:q} 2>&1 | tee {log:q}"


rule select_view:
    input:
        unpack(
            guarded(
                "select_view",
                lambda w: {"blocks": PLAN.members(w.experiment)},
            )
        ),
    output:
        manifest="results/views/{experiment}/ipc{ipc}/seed{seed}/selection.json",
        table="results/views/{experiment}/ipc{ipc}/seed{seed}/selection.csv",
    log:
        "results/logs/select_view/{experiment}/ipc{ipc}/seed{seed}.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("select_view"),
    shell:
        "python -m ddlib.jobs.select_view --spec {params.spec:q} --blocks {input.blocks:q}"
        " --table {output.table:q} --output {output.manifest:q} 2>&1 | tee {log:q}"
