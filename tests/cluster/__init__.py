"""Real parts for tests and the demo: one module per part.

    versions     what is pinned, once
    gomod        writes go/*/ (tools.go, go.mod, go.sum) from the pins
    build        Go binaries in the cache
    packages     Debian packages
    pki          a certificate authority and what it issues
    processes    start, find again and stop a background program
    etcd, apiserver, kubectl, accounts
    control_plane   all of it together: what tests use
    paths, errors

Everything listens on loopback only. `python -m tests.cluster` is the same by hand.
"""
