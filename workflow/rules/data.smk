# Real data: train and test as separate files. Only `evaluate` has the test file as an input.
rule prepare_data:
    input:
        unpack(guarded("prepare_data", data_inputs)),
    output:
        train="results/data/{dataset}/train.json",
        test="results/data/{dataset}/test.json",
    log:
        "results/logs/prepare_data/{dataset}.log",
    conda:
        "../../envs/ddlib.yaml"
    threads: lambda w: threads_of(w.dataset)
    resources:
        machine=MACHINE,
        mem_mb=4000,
        runtime=60,
    params:
        spec=spec_of("prepare_data"),
    shell:
        "python -m ddlib.jobs.prepare_data --spec {params.spec:q} --machine {resources.machine:q}"
        " --train {output.train:q} --test {output.test:q} 2>&1 | tee {log:q}"
