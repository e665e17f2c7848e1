"""All names that scripts written for lazycluster 0.2 use, with their parameters."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import lazycluster
from lazycluster import (
    Connection,
    Runtime,
    RuntimeGroup,
    RuntimeManager,
    RuntimeTask,
    exceptions,
)

pytestmark = pytest.mark.every_python

PROPERTY = "a property that is read"
SETTABLE = "a property that is read and set"
CONSTANT = "a constant"


class ReferenceRuntimeTask:
    """RuntimeTask as scripts call it; the bodies are empty."""

    env_variables = SETTABLE
    execution_log = PROPERTY
    execution_log_file_path = PROPERTY
    function_returns = PROPERTY
    name = SETTABLE
    omit_on_join = SETTABLE
    process = PROPERTY

    def __init__(self, name=None): ...
    def cleanup(self): ...
    def execute(self, connection, debug=False): ...
    def get_file(self, remote_path, local_path=None): ...
    def join(self): ...
    def print_log(self): ...
    def run_command(self, command): ...
    def run_function(self, function, **func_kwargs): ...
    def send_file(self, local_path, remote_path=None): ...


class ReferenceRuntime:
    """Runtime as scripts call it."""

    LOCALHOST = CONSTANT
    WORKING_DIR_ENV_VAR_NAME = CONSTANT

    alive_process_count = PROPERTY
    alive_task_process_count = PROPERTY
    class_name = PROPERTY
    cpu_cores = PROPERTY
    env_variables = SETTABLE
    function_returns = PROPERTY
    gpu_count = PROPERTY
    gpus = PROPERTY
    host = PROPERTY
    info = PROPERTY
    memory = PROPERTY
    memory_in_mb = PROPERTY
    os = PROPERTY
    python_version = PROPERTY
    task_processes = PROPERTY
    working_dir = SETTABLE

    def __init__(self, host, working_dir=None, connection_kwargs=None): ...
    def add_env_variables(self, env_variables): ...
    def check_filter(
        self,
        gpu_required=False,
        min_memory=None,
        min_cpu_cores=None,
        installed_executables=None,
        filter_commands=None,
    ): ...
    def cleanup(self): ...
    def clear_tasks(self): ...
    def create_dir(self, path): ...
    def create_tempdir(self): ...
    def delete_dir(self, path): ...
    def echo(self, msg): ...
    def execute_function(self, function, execute_async=False, debug=False, **func_kwargs): ...
    def execute_task(self, task, execute_async=True, omit_on_join=False, debug=False): ...
    def execution_log(self, task_name): ...
    def expose_port_from_runtime(self, runtime_port, local_port=None): ...
    def expose_port_to_runtime(self, local_port, runtime_port=None): ...
    def get_file(self, remote_path, local_path=None, execute_async=False): ...
    def get_free_port(self, ports): ...
    def get_process(self, key): ...
    def get_processes(self, only_alive=False): ...
    def has_free_port(self, port): ...
    @classmethod
    def is_port_exposure_process(cls, process_key): ...
    @classmethod
    def is_runtime_task_process(cls, process_key): ...
    def is_valid_runtime(self): ...
    def join(self): ...
    def print_info(self): ...
    def print_log(self): ...
    def send_file(self, local_path, remote_path=None, execute_async=False): ...
    def stop_process(self, key): ...


class ReferenceRuntimeGroup:
    """RuntimeGroup as scripts call it."""

    function_returns = PROPERTY
    hosts = PROPERTY
    runtime_count = PROPERTY
    runtimes = PROPERTY
    task_processes = PROPERTY

    def __init__(self, runtimes=None, hosts=None, working_dir=None): ...
    def add_env_variables(self, env_variables): ...
    def add_runtime(self, host=None, runtime=None): ...
    def cleanup(self): ...
    def clear_tasks(self): ...
    def contains_runtime(self, host): ...
    def execute_task(
        self,
        task,
        host=None,
        broadcast=False,
        execute_async=True,
        omit_on_join=False,
        debug=False,
    ): ...
    def expose_port_from_runtime_to_group(self, host, runtime_port, group_port=None): ...
    def expose_port_to_runtimes(self, local_port, runtime_port=None, exclude_hosts=None): ...
    def fill_runtime_info_buffers_async(self): ...
    def get_free_port(self, ports, enforce_check_on_localhost=False): ...
    def get_runtime(self, host=None): ...
    def get_runtimes(self, include_hosts=None, exclude_hosts=None): ...
    def has_free_port(self, port, exclude_hosts=None): ...
    def join(self): ...
    def print_hosts(self): ...
    def print_log(self): ...
    def print_runtime_info(self): ...
    def remove_runtime(self, host): ...
    def send_file(self, local_path, remote_path=None, execute_async=True): ...
    def set_env_variables(self, env_variables): ...


class ReferenceRuntimeManager:
    """RuntimeManager as scripts call it."""

    inactive_hosts = PROPERTY

    def create_group(
        self,
        include_hosts=None,
        exclude_hosts=None,
        gpu_required=False,
        min_memory=None,
        min_cpu_cores=None,
        installed_executables=None,
        filter_commands=None,
        working_dir=None,
    ): ...
    def print_hosts(self): ...
    def print_inactive_hosts(self): ...
    def print_runtime_info(self): ...


SHORT_NAMES = ["call", "close", "run", "submit", "with_options", "__enter__", "__exit__"]
"""What a Runtime and a RuntimeGroup have beside the names of 0.2."""

EXCEPTIONS = sorted(
    name
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, exceptions.LazyclusterError)
)

IMPORTABLE = {
    "lazycluster": [
        "Connection",
        "Environment",
        "Runtime",
        "RuntimeGroup",
        "RuntimeManager",
        "RuntimeTask",
        "__version__",
        *EXCEPTIONS,
    ],
    "lazycluster.utils": ["Environment"],
    "lazycluster.runtimes": ["Runtime", "RuntimeTask"],
    "lazycluster.runtime_mgmt": ["RuntimeGroup", "RuntimeManager"],
    "lazycluster.manager": ["RuntimeManager"],
    "lazycluster.groups": ["GroupResult", "GroupView", "RuntimeGroup"],
    "lazycluster.exceptions": [
        "InvalidRuntimeError",
        "LazyclusterError",
        "NoPortsLeftError",
        "NoRuntimesDetectedError",
        "PathCreationError",
        "PortInUseError",
        "TaskExecutionError",
    ],
}

MEMBERS = [
    pytest.param(real, name, expected, id=f"{real.__name__}.{name}")
    for real, reference in (
        (RuntimeTask, ReferenceRuntimeTask),
        (Runtime, ReferenceRuntime),
        (RuntimeGroup, ReferenceRuntimeGroup),
        (RuntimeManager, ReferenceRuntimeManager),
    )
    for name, expected in vars(reference).items()
    if name == "__init__" or not name.startswith("__")
]


def members_that_are(*kinds):
    return [p for p in MEMBERS if (p.values[2] if isinstance(p.values[2], str) else "") in kinds]


METHODS = members_that_are("")
PROPERTIES = members_that_are(PROPERTY, SETTABLE)


def unwrapped(member):
    return member.__func__ if isinstance(member, classmethod) else member


def parameters_of(member):
    """Return the parameters after self or cls."""
    return list(inspect.signature(unwrapped(member)).parameters.values())[1:]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in IMPORTABLE for name in IMPORTABLE[module]]
)
def test_name_can_be_imported(module, name):
    """Scripts import it from there."""
    assert hasattr(importlib.import_module(module), name)


def test_all_is_complete():
    """`from lazycluster import *` gives what the package has, and `dir` names it."""
    assert set(IMPORTABLE["lazycluster"]) <= set(lazycluster.__all__) <= set(dir(lazycluster))
    starred: dict[str, object] = {}
    exec("from lazycluster import *", starred)
    assert starred["PortInUseError"] is exceptions.PortInUseError
    assert starred.keys() >= set(lazycluster.__all__)


def test_an_exception_is_the_same_wherever_it_comes_from():
    """It can be caught under both names."""
    for name in EXCEPTIONS:
        assert getattr(lazycluster, name) is getattr(exceptions, name)


def test_importing_the_package_imports_nothing_of_it():
    """Each name is imported at its first use."""
    source = "import sys, lazycluster; print(*(n for n in sys.modules if 'lazycluster' in n))"
    run = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=True)
    assert run.stdout.split() == [b"lazycluster"]


def test_dir_has_the_public_names():
    """It has names that were not used yet, and no private ones."""
    names = dir(lazycluster)
    assert {"Runtime", "Environment", "exceptions", "utils", "__version__"} <= set(names)
    assert not [name for name in names if name.startswith("_") and name != "__version__"]
    assert all(hasattr(lazycluster, name) for name in names)


def test_version_is_text():
    """It begins with a digit."""
    assert lazycluster.__version__[0].isdigit()


@pytest.mark.parametrize(("cls", "name", "expected"), MEMBERS)
def test_member_is_there_and_of_its_kind(cls, name, expected):
    """Properties stay properties, and methods stay methods."""
    found = inspect.getattr_static(cls, name)
    if expected is CONSTANT:
        assert isinstance(found, str)
    elif expected in (PROPERTY, SETTABLE):
        assert isinstance(found, property)
    else:
        assert type(found) is type(expected)


@pytest.mark.parametrize(("cls", "name", "expected"), PROPERTIES)
def test_property_can_be_set_if_it_is_to_be(cls, name, expected):
    """All others have no setter."""
    assert (inspect.getattr_static(cls, name).fset is not None) == (expected is SETTABLE)


@pytest.mark.parametrize(("cls", "name", "expected"), METHODS)
def test_method_takes_what_it_is_to_take(cls, name, expected):
    """Names, order and defaults are equal; more parameters are optional and keyword-only."""
    wanted = parameters_of(expected)
    found = parameters_of(inspect.getattr_static(cls, name))
    bare = [p.replace(annotation=p.empty) for p in found if p.kind is not p.KEYWORD_ONLY]
    assert bare == wanted
    more = [p for p in found if p.kind is p.KEYWORD_ONLY]
    assert all(p.default is not p.empty for p in more)


@pytest.mark.parametrize(("cls", "name", "expected"), METHODS)
def test_what_belongs_to_the_function_is_not_taken_from_it(cls, name, expected):
    """A method that passes keywords on adds no keyword of its own."""
    found = parameters_of(inspect.getattr_static(cls, name))
    if any(p.kind is p.VAR_KEYWORD for p in found):
        assert not [p for p in found if p.kind is p.KEYWORD_ONLY]


@pytest.mark.parametrize(("cls", "name", "expected"), METHODS)
def test_method_is_annotated(cls, name, expected):
    """Every parameter and the return value."""
    function = unwrapped(inspect.getattr_static(cls, name))
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    assert all(p.annotation is not p.empty for p in parameters_of(function))


@pytest.mark.parametrize(("cls", "name", "expected"), PROPERTIES)
def test_property_is_annotated(cls, name, expected):
    """It has a return annotation."""
    assert "return" in inspect.getattr_static(cls, name).fget.__annotations__


@pytest.mark.parametrize(("cls", "name", "expected"), METHODS + PROPERTIES)
def test_member_is_documented(cls, name, expected):
    """The docstring of a class documents its __init__."""
    found = cls if name == "__init__" else inspect.getattr_static(cls, name)
    assert inspect.getdoc(unwrapped(found))


@pytest.mark.parametrize(
    ("cls", "name", "expected"), [p for p in METHODS if p.values[1] != "__init__"]
)
def test_docstring_names_each_parameter(cls, name, expected):
    """It has `name:` under `Args:`."""
    found = inspect.getattr_static(cls, name)
    documented = inspect.getdoc(unwrapped(found))
    missing = [p.name for p in parameters_of(found) if f"{p.name}:" not in documented]
    assert not missing


@pytest.mark.parametrize("cls", [Runtime, RuntimeGroup, RuntimeTask])
def test_docstring_of_a_class_names_the_parameters(cls):
    """It has the parameters of __init__; for the others of Runtime it names Connection."""
    parameters = parameters_of(cls.__init__)
    of_connection = {parameter.name for parameter in parameters_of(Connection.__init__)} - {"host"}
    for parameter in parameters:
        if parameter.name not in of_connection:
            assert f"{parameter.name}:" in inspect.getdoc(cls)
    if of_connection & {parameter.name for parameter in parameters}:
        assert "`Connection` explains the keyword-only parameters" in inspect.getdoc(cls)


@pytest.mark.parametrize("cls", [Runtime, RuntimeGroup])
def test_a_runtime_takes_the_parameters_of_a_connection(cls):
    """Under their names, with their types; None, the default, means not given."""

    def keywords(cls):
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}

    found, wanted = keywords(cls), keywords(Connection)
    assert found.keys() >= wanted.keys()
    for name, parameter in wanted.items():
        assert found[name].default is None
        annotation = parameter.annotation
        optional = annotation if annotation.endswith(" | None") else f"{annotation} | None"
        assert found[name].annotation.replace("PathLike", "os.PathLike") == optional


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (RuntimeTask, "run_command"),
        (RuntimeTask, "run_function"),
        (RuntimeTask, "send_file"),
        (RuntimeTask, "get_file"),
        (RuntimeTask, "execute"),
        (Runtime, "execute_task"),
        (Runtime, "execute_function"),
        (Runtime, "send_file"),
        (Runtime, "get_file"),
    ],
)
def test_what_can_be_chained_returns_the_task(cls, name):
    """`task.run_command(…).send_file(…)` and `execute_task(…).print_log()` work."""
    assert "RuntimeTask" in str(inspect.signature(getattr(cls, name)).return_annotation)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *((Runtime, name) for name in SHORT_NAMES),
        *((RuntimeGroup, name) for name in [*SHORT_NAMES, "get_file", "from_ssh_config"]),
    ],
)
def test_short_names_are_there(cls, name):
    """Each is documented and annotated."""
    function = unwrapped(inspect.getattr_static(cls, name))
    assert name.startswith("__") or inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty


def test_what_only_a_strict_comparison_finds():
    """Loggers, texts, names of copies, and the constructor of the errors' base class."""
    task = RuntimeTask("a")
    assert isinstance(task.log, logging.Logger)
    assert isinstance(Runtime.log, logging.Logger)
    assert isinstance(RuntimeManager.log, logging.Logger)
    assert str(task) == "RuntimeTask: a"
    assert [copy.deepcopy(task).name, copy.deepcopy(task).name] == ["a-1", "a-2"]
    assert RuntimeTask("").name
    task.name, task.omit_on_join = "b", True
    assert (task.name, task.omit_on_join) == ("b", True)
    cause = ValueError("cause")
    error = exceptions.LazyclusterError("text", cause)
    assert (error.msg, error.predecessor_excp) == ("text", cause)


def test_package_is_typed():
    """Type checkers read its annotations."""
    assert (Path(lazycluster.__file__).parent / "py.typed").exists()


def test_exceptions_have_the_bases_that_scripts_catch():
    """A broken connection is a ValueError, a failed copy an OSError, all are LazyclusterErrors."""
    assert issubclass(exceptions.ConnectError, ValueError)
    assert issubclass(exceptions.FileTransferError, OSError)
    assert issubclass(exceptions.FileTransferError, exceptions.TaskExecutionError)
    for name in IMPORTABLE["lazycluster.exceptions"]:
        assert issubclass(getattr(exceptions, name), exceptions.LazyclusterError)
        assert getattr(exceptions, name).__doc__


def test_runtime_task_can_be_imported_beside_it():
    """As in the reference."""
    assert lazycluster.runtimes.RuntimeTask is RuntimeTask


@pytest.mark.parametrize(
    ("key", "whether"),
    [("h::task::n", True), ("h::-L::1::2", False), ("h::-R::1::2", False), ("", False)],
)
def test_is_runtime_task_process(key, whether):
    """The key alone decides."""
    assert Runtime.is_runtime_task_process(key) is whether
