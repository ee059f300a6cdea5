# Tables and figures of a suite.
rule tabulate:
    input:
        unpack(guarded("tabulate", lambda w: {"files": PLAN.table_inputs(w.suite)})),
    output:
        table=report(
            "results/tables/{suite}.csv",
            category="Suite {suite}",
            caption="../report/table.rst",
            labels={"shows": "table as CSV (to download)"},
        ),
        page=report(
            "results/tables/{suite}.html",
            category="Suite {suite}",
            caption="../report/page.rst",
            labels={"shows": "table and provenance"},
        ),
        manifest="results/tables/{suite}.json",
    log:
        "results/logs/tabulate/{suite}.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    params:
        spec=spec_of("tabulate"),
    shell:
        "python -m ddlib.jobs.tabulate --spec {params.spec:q} --table {output.table:q}"
        " --page {output.page:q} --output {output.manifest:q} 2>&1 | tee {log:q}"


rule plot:
    input:
        table="results/tables/{suite}.csv",
    output:
        figure=report(
            "results/figures/{suite}.png",
            category="Suite {suite}",
            caption="../report/figure.rst",
            labels={"shows": "figure"},
        ),
    log:
        "results/logs/plot/{suite}.log",
    localrule: True
    conda:
        "../../envs/ddlib.yaml"
    shell:
        "python -m ddlib.jobs.plot --table {input.table:q} --output {output.figure:q} 2>&1 | tee {log:q}"
