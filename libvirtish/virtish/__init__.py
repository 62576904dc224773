"""The command `virtish`: virsh's verbs over the client side of the codec."""
