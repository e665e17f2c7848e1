"""Which module serves a kind of step or an operation; both sides load modules by this table."""

# Names are relative to the package: `lazycluster` on the manager, `_lazycluster` on the host.
OPERATIONS = {
    "make_directory": "_shared.folders",
    "make_private_directory": "_shared.folders",
    "expand_variables": "_shared.folders",
    "remove_tree": "_shared.folders",
    "delete_directory": "_shared.trees",
    "read_host_info": "_remote.host_info",
    "is_executable": "_remote.host_info",
    "port_is_free": "_shared.ports",
    "port_state": "_shared.ports",
    "first_free_port": "_shared.ports",
}

# The modules that kinds of steps need beside those of the bootstrap.
STEP_MODULES = {"function": "cloudpickle", "pack": "_shared.trees", "unpack": "_shared.trees"}

# Modules that every connection has from its bootstrap on, in the order of import.
BOOTSTRAP_MODULES = (
    "_shared.folders",
    "_shared.frames",
    "_shared.operations",
    "_remote.child",
    "_remote.loop",
    "_remote.step_process",
    "_remote.supervisor",
)
