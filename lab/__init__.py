"""The vm lab: image recipes, and two QEMU machines to be the cloud's nodes. See README.md."""
