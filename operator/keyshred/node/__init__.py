"""The node plugin: volumes of unsealed files for pods of one node, over CSI."""
