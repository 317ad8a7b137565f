"""Messages of the kubelet, generated from the .proto files beside it by `make proto`."""
