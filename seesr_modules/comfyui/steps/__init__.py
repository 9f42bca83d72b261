"""The steps of SeeSR, one file each; a node calls one of them."""
