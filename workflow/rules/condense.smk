# From real images to synthetic ones: one job per stage and class phase, merged into sets.
rule condense:
    input:
        unpack(guarded("condense", condense_inputs)),
    output:
        manifest="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/phase{phase}.json",
        run="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/phase{phase}.run.json",
    log:
        "results/logs/condense/{experiment}/per{per}/seed{seed}/stage{stage}/phase{phase}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=lambda w: GPUS if PLAN.experiments[w.experiment]["settings"].get("outer_iterations", 0) > 0 else 0,
        machine=MACHINE,
        mem_mb=16000,
        runtime=48 * 60,
    params:
        spec=spec_of("condense"),
        given=lambda w, input: options(input, "selection", "masks", "earlier", "events", "scores", "observer"),
    shell:
        "python -m ddlib.jobs.condense --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} {params.given} --output {output.manifest:q} --run {output.run:q} 2>&1 | tee {log:q}"


# Progressive distillation: networks trained on the stages before, and which of their checkpoints a stage starts from.
rule condition:
    input:
        unpack(guarded("condition", lambda w: PLAN.condition_inputs(**dict(w)))),
    output:
        manifest="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/block{block}.json",
        run="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/block{block}.run.json",
    log:
        "results/logs/condition/{experiment}/per{per}/seed{seed}/stage{stage}/block{block}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        machine=MACHINE,
        mem_mb=8000,
        runtime=24 * 60,
    params:
        spec=spec_of("condition"),
        before=lambda w, input: options(input, "before"),
    shell:
        "python -m ddlib.jobs.condition --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} --earlier {input.earlier:q} {params.before} --output {output.manifest:q}"
        " --run {output.run:q} 2>&1 | tee {log:q}"


rule select_conditioned:
    input:
        unpack(guarded("select_conditioned", lambda w: {"blocks": PLAN.conditioned(**dict(w))})),
    output:
        manifest="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/selection.json",
        table="results/condensed/{experiment}/per{per}/seed{seed}/stage{stage}/from/selection.csv",
    log:
        "results/logs/select_conditioned/{experiment}/per{per}/seed{seed}/stage{stage}.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("select_conditioned"),
    shell:
        "python -m ddlib.jobs.select_view --spec {params.spec:q} --blocks {input.blocks:q}"
        " --table {output.table:q} --output {output.manifest:q} 2>&1 | tee {log:q}"


rule merge:
    input:
        unpack(guarded("merge", merge_inputs)),
    output:
        card="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}card.json",
        tensors="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}set.safetensors",
        preview=report(
            "results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}preview.png",
            category="Synthetic sets",
            caption="../report/preview.rst",
            labels=lambda w: {
                "experiment": w.experiment,
                "ipc": w.ipc,
                "seed": w.seed,
                "at": os.path.dirname(w.at) or "end",
                "suites": suites_of(w),
            },
        ),
    log:
        "results/logs/merge/{experiment}/ipc{ipc}/seed{seed}/{at}merge.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("merge"),
        data=lambda w, input: options(input, "data"),
    shell:
        "python -m ddlib.jobs.merge --spec {params.spec:q} --parts {input.parts:q} {params.data} --tensors {output.tensors:q}"
        " --preview {output.preview:q} --output {output.card:q} 2>&1 | tee {log:q}"
