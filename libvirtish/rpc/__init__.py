"""libvirt's remote protocol: types and procedures as data, one codec, a server and a client."""
