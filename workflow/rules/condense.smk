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
        gpu=lambda w: int(PLAN.experiments[w.experiment]["settings"].get("outer_iterations", 0) > 0),
        machine=MACHINE,
        mem_mb=16000,
        runtime=48 * 60,
    params:
        spec=spec_of("condense"),
        selection=lambda w, input: f"--selection {input.selection}" if "selection" in input.keys() else "",
        masks=lambda w, input: f"--masks {input.masks}" if "masks" in input.keys() else "",
    shell:
        "python -m ddlib.jobs.condense --spec {params.spec:q} --machine {resources.machine:q} --gpus {resources.gpu}"
        " --train {input.train:q} {params.selection} {params.masks} --output {output.manifest:q} --run {output.run:q} 2>&1 | tee {log:q}"


rule merge:
    input:
        unpack(
            guarded(
                "merge",
                lambda w: {"parts": [f"{stem}.json" for stem in PLAN.phases(w.experiment, w.ipc, w.seed)]},
            )
        ),
    output:
        card="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}card.json",
        tensors="results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}set.safetensors",
        preview=report(
            "results/sets/{experiment}/ipc{ipc}/seed{seed}/{at}preview.png",
            category="Synthetic sets",
            subcategory="{experiment}",
            caption="../report/preview.rst",
        ),
    log:
        "results/logs/merge/{experiment}/ipc{ipc}/seed{seed}/{at}merge.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("merge"),
    shell:
        "python -m ddlib.jobs.merge --spec {params.spec:q} --parts {input.parts:q} --tensors {output.tensors:q}"
        " --preview {output.preview:q} --output {output.card:q} 2>&1 | tee {log:q}"
