"""`make bench`: the numbers of the design, measured on real parts, as ratios whose two sides take turns in one run.

go/noop   a mutating webhook that does nothing: the floor for any webhook
go/load   the load generator
load      builds both, and runs a plan of the load generator
stage     one control plane with keyshred, the no-op webhook, and tenants
rows      what is measured there
starts    a client that starts pods, by turns
pods      what is measured with it on a node
report    as Markdown and JSON, with machine and versions
"""
