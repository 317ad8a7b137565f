module keyshred.dev/tests/benchmarks

go 1.26.0
