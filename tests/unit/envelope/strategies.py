"""Hypothesis strategies for everything that the format allows."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from keyshred.envelope.context import Context
from keyshred.envelope.format import WRAPPED_SIZE, Born, Envelope, Mechanism

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 253)
data_keys = st.from_regex(r"[-._a-zA-Z0-9]{1,253}", fullmatch=True).filter(
    lambda key: key != "." and not key.startswith("..")
)
contexts = st.builds(Context, st.uuids(), labels, names)
deks = st.binary(min_size=32, max_size=32)
versions = st.integers(1, 2**32 - 1)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Any envelope, its wrapped DEK and commit being random bytes."""
    mechanism = draw(st.sampled_from(Mechanism))
    size = WRAPPED_SIZE[mechanism]
    return Envelope(
        key_id=draw(st.uuids()),
        key_version=draw(versions),
        mechanism=mechanism,
        wrapped_dek=draw(st.binary(min_size=size, max_size=size)),
        commit=draw(st.binary(min_size=16, max_size=16)),
        namespace=draw(labels),
        name=draw(names),
        born=draw(st.sampled_from(Born)),
        born_at=datetime.fromtimestamp(draw(st.integers(0, 253402300799)), UTC),
    )
