"""Which module serves a kind of step or an operation; both sides load modules by these tables."""

# Names are relative to the package: `lazycluster` on the manager, `_lazycluster` on the host.
OPERATIONS = {
    "make_directory": "_shared.paths",
    "make_private_directory": "_shared.paths",
    "expand_variables": "_shared.paths",
    "contains": "_shared.folders",
    "expand": "_shared.paths",
    "remove_tree": "_shared.folders",
    "delete_directory": "_shared.folders",
    "read_host_info": "_remote.host_info",
    "is_executable": "_remote.host_info",
    "port_is_free": "_shared.ports",
    "port_state": "_shared.ports",
    "first_free_port": "_shared.ports",
    "free_ports": "_shared.ports",
    "service_address": "_shared.ports",
    "expect_socket": "_shared.sockets",
    "forget_socket": "_shared.sockets",
    "socket_accepts": "_shared.ports",
    "socket_identity": "_shared.sockets",
    "remove_socket": "_shared.sockets",
    "network_id": "_shared.ports",
    "read_versions": "_shared.versions",
}

# The modules that kinds of steps need in addition to the modules of the bootstrap.
STEP_MODULES = {
    "command": "_remote.commands",
    "function": "_remote.call",
    "share": "_remote.call",
    "list": "_shared.listing",
    "pack": "_shared.tree_stream",
    "unpack": "_shared.unpacker",
}

# The modules that travel with a module because it imports them.
IMPORTED_MODULES = {
    "_shared.tree_stream": ("_shared.listing", "_shared.patterns"),
    "_shared.unpacker": (
        "_shared.deletion",
        "_shared.listing",
        "_shared.patterns",
        "_shared.tree_stream",
        "_shared.tree_writer",
    ),
    "_remote.call": (
        "_shared.by_value",
        "_remote.import_hooks",
        "_remote.stand_ins",
        "_remote.resources",
        "_remote.local_modules",
        "_remote.rebuild",
        "_remote.makers",
        "_remote.awaitables",
        "_remote.chunks",
        "_remote.unpickler",
        "_remote.value_pickler",
        "_remote.spawning",
        "_remote.raised",
        "_remote.log_records",
        "_remote.shared_values",
        "_remote.preloading",
        "_remote.warming",
        "_remote.rehearsal",
    ),
}

# The modules that travel with a module because it imports them after some errors.
SELDOM_IMPORTED_MODULES = {
    "_remote.call": (
        "_remote.actor",
        "_remote.kept",
        "_shared.referents",
        "_shared.cures",
        "_shared.unpicklable",
        "_shared.versions",
    ),
}

# The modules that every connection has from its bootstrap on, in the order of import.
BOOTSTRAP_MODULES = (
    "_shared.paths",
    "_shared.folders",
    "_shared.sockets",
    "_shared.frames",
    "_shared.messages",
    "_shared.operations",
    "_remote.fork_hooks",  # before another one imports `threading`
    "_remote.plain_json",
    "_remote.streams",
    "_remote.channel",
    "_remote.files",
    "_remote.python_end",
    "_remote.imports",
    "_remote.interpreter",
    "_remote.child",
    "_remote.sessions",
    "_remote.cleanup_process",
    "_remote.step_process",
    "_remote.loop",
    "_remote.request",
    "_remote.contents",
    "_remote.exits",
    "_remote.branches",
    "_remote.starting",
    "_remote.next_call",
    "_remote.predecessors",
    "_remote.supervisor",
)
