# keyshred's one image: webhook, controller and the commands of the chart, with SoftHSM for the evaluation mode.
#   make image                                                        builds it without a registry
#   docker build --build-arg BASE=debian:bookworm-slim@sha256:… .     builds it on a base of your choice
ARG BASE=docker.io/library/debian:bookworm-20250520-slim

FROM ${BASE} AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3-venv
COPY requirements.txt /src/
# Wheels alone, each by its hash: nothing is compiled, and nothing is fetched that was not looked at.
# The secret `ca`, if given, holds the certificates to trust for that: behind a proxy that reads along.
RUN --mount=type=secret,id=ca,target=/run/ca.pem \
    if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem; fi \
 && python3 -m venv /opt/keyshred \
 && /opt/keyshred/bin/pip install -q --no-cache-dir --only-binary :all: --require-hashes -r /src/requirements.txt \
 && cd /opt/keyshred/lib/python3*/site-packages \
 && rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth ../../../bin/pip* \
 && find . -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
# Credentials and connections are used of it, and none of its hundred megabytes of generated calls and models.
 && rm -rf kubernetes/client/api/* kubernetes/aio/client/api/* \
 && find kubernetes/client/models kubernetes/aio/client/models -name '*_*.py' ! -name __init__.py \
    ! -name v1_object_meta.py ! -name v1_owner_reference.py ! -name v1_managed_fields_entry.py -delete \
 && python3 -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE}
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends python3 softhsm2 \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /etc/softhsm /var/lib/softhsm \
 && find /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info -mindepth 1 -delete 2>/dev/null; true
COPY --from=build /opt/keyshred /opt/keyshred
COPY operator /opt/keyshred/operator
RUN printf '#!/bin/sh\nexec /opt/keyshred/bin/python3 -P -m keyshred "$@"\n' > /usr/local/bin/keyshred \
 && chmod 755 /usr/local/bin/keyshred \
 && echo /opt/keyshred/operator > "$(echo /opt/keyshred/lib/python3*/site-packages)/keyshred.pth" \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/keyshred/operator
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="keyshred" \
      org.opencontainers.image.description="HSM-rooted encryption of Kubernetes Secrets, with crypto-shredding" \
      org.opencontainers.image.source="https://github.com/keyshred/keyshred" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Read-only at run time: what is written goes to the volumes that the chart mounts.
# kopf asks for the user's name, which a user without an entry in /etc/passwd has only here.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp USER=keyshred
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/usr/local/bin/keyshred"]
