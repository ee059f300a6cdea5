# Sparsity masks, one per outer iteration, 100 a chunk: shared by ipc, class phases and numbers of outer iterations.
rule draw_masks:
    input:
        unpack(guarded("draw_masks")),
    output:
        manifest="results/masks/{maskset}/seed{seed}/chunk{chunk}.json",
    log:
        "results/logs/draw_masks/{maskset}/seed{seed}/chunk{chunk}.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("draw_masks"),
    shell:
        "python -m ddlib.jobs.draw_masks --spec {params.spec:q} --output {output.manifest:q} 2>&1 | tee {log:q}"
