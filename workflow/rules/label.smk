# Soft labels of a synthetic set, which students are then taught without the teacher.
rule relabel:
    input:
        unpack(guarded("relabel", relabel_inputs)),
    output:
        manifest="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}labels/{labels}/{views}.json",
        run="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}labels/{labels}/{views}.run.json",
    log:
        "results/logs/relabel/{experiment}/ipc{ipc}/seed{seed}/{at}{labels}/{views}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=12 * 60,
    params:
        spec=spec_of("relabel"),
    shell:
        "python -m ddlib.jobs.relabel --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --card {input.card:q} --teacher {input.teacher:q} --output {output.manifest:q} --run {output.run:q}"
        " 2>&1 | tee {log:q}"
