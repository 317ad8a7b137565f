"""Messages of the kubelet, generated from the .proto files beside it.

With grpcio-tools, in the folder `operator`: `python -m grpc_tools.protoc -I. --python_out=. --pyi_out=.
keyshred/node/proto/*.proto`. Not of the developers' environment: it is needed once in years, and what it generates asks
for a protobuf of its own age.
"""
