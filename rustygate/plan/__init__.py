"""`rustygate plan`: the gate's own code on a virtual clock."""
