"""How a Runtime begins and ends: its constructor, `is_valid_runtime`, `with` and `close`."""

from __future__ import annotations

import copy
import logging
import os
import pickle

import pytest

import lazycluster
from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import ConnectError, InvalidRuntimeError, PathCreationError
from support.hosts import call, run


@pytest.fixture
def keywords(sshd):
    """What a Runtime on the common sshd takes beside the host."""
    return {"config_file": sshd.config_file, "connect_timeout": 150}


# --- Parameters ---


def test_parameters_of_the_connection_may_be_keywords(sshd, keywords):
    """Instead of `connection_kwargs`, or beside them."""
    both = {"config_file": sshd.config_file, "connect_timeout": 150.0}
    for kwargs in (None, {}, {"timeout": 150}, both):
        with Runtime(
            sshd.alias, connection_kwargs=kwargs, options={"Compression": "yes"}, **keywords
        ) as runtime:
            assert runtime.echo("hi") == "hi"
            assert runtime._connection._settings.options == {"Compression": "yes"}


def test_options_of_both_kinds_come_together(sshd, keywords):
    """They are different options."""
    kwargs = {"options": {"Compression": "yes"}, "look_for_keys": True}
    with Runtime(sshd.alias, None, kwargs, options={"TCPKeepAlive": "no"}, **keywords) as runtime:
        options = {"Compression": "yes", "TCPKeepAlive": "no"}
        assert runtime._connection._settings.options == options


@pytest.mark.parametrize("empty", ["", None])
def test_working_directory_that_is_an_empty_string_is_a_temporary_one(sshd, keywords, empty):
    """As in lazycluster 0.2."""
    with Runtime(sshd.alias, empty, **keywords) as runtime:
        path = runtime.working_dir
        assert os.path.isdir(path)
    assert not os.path.exists(path)


def test_working_directory_may_be_a_path_object(sshd, keywords, tmp_path):
    """As everywhere in Python."""
    with Runtime(sshd.alias, tmp_path / "a", **keywords) as runtime:
        assert runtime.working_dir == str(tmp_path / "a")
        runtime.working_dir = tmp_path / "b"
        assert runtime.working_dir == str(tmp_path / "b")


# --- is_valid_runtime ---


class Picky(Runtime):
    """A Runtime that decides for itself whether its host can be used."""

    verdict: object = True

    def is_valid_runtime(self):
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


def test_constructor_asks_is_valid_runtime_once_and_last(sshd, keywords, tmp_path):
    """It can use the host, and the working directory is there."""
    asked = []

    class Asking(Runtime):
        def is_valid_runtime(self):
            asked.append((self.working_dir, run(self, "pwd"), super().is_valid_runtime()))
            return True

    with Asking(sshd.alias, str(tmp_path), **keywords):
        assert asked == [(str(tmp_path), [f"{tmp_path}\n"], True)]


@pytest.mark.parametrize("verdict", [False, None])
def test_override_that_refuses_the_host(sshd, keywords, monkeypatch, nothing_left, verdict):
    """InvalidRuntimeError with the host, also without a return; nothing is left open."""
    monkeypatch.setattr(Picky, "verdict", verdict)
    with pytest.raises(InvalidRuntimeError, match=f"Picky: .* returned {verdict}") as caught:
        Picky(sshd.alias, **keywords)
    assert caught.value.host == sshd.alias
    assert sshd.alias in str(caught.value)
    nothing_left()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("mine"), KeyboardInterrupt(), ConnectError("mine", host="h")]
)
def test_what_an_override_raises_passes(sshd, keywords, monkeypatch, nothing_left, error):
    """As it is; nothing is left open."""
    monkeypatch.setattr(Picky, "verdict", error)
    with pytest.raises(type(error)) as caught:
        Picky(sshd.alias, **keywords)
    assert caught.value is error
    nothing_left()


def test_constructor_makes_one_request(sshd, keywords, requests):
    """Our own is_valid_runtime adds none."""
    with Runtime(sshd.alias, **keywords) as runtime:
        assert requests == [["operation"]]
        assert runtime.is_valid_runtime() is True
        assert requests == [["operation"], ["operation"]]


def test_unusable_host_is_an_invalid_runtime(bare_sshd, nothing_left):
    """The cause says why."""
    with pytest.raises(InvalidRuntimeError) as caught:
        Runtime(bare_sshd.alias, config_file=bare_sshd.config_file)
    assert isinstance(caught.value.__cause__, lazycluster.exceptions.PythonNotFoundError)
    nothing_left()


def test_temporary_directory_that_cannot_be_made(sshd, keywords, monkeypatch, nothing_left):
    """It is a PathCreationError, too."""
    monkeypatch.setattr("lazycluster._runtime.working_dir.Target.operate", refuse)
    with pytest.raises(PathCreationError, match="Permission denied") as caught:
        Runtime(sshd.alias, **keywords)
    assert caught.value.host == sshd.alias
    nothing_left()


def refuse(target, operation, **arguments):
    raise PermissionError(13, "Permission denied", "/tmp/lazycluster-x")


# --- with, close ---


def test_with_closes_what_it_has_opened(sshd, keywords, nothing_left):
    """The temporary directory and the connection."""
    with Runtime(sshd.alias, **keywords) as runtime:
        path = runtime.working_dir
        assert run(runtime, "pwd") == [f"{path}\n"]
        assert not runtime._closed
    assert runtime._closed
    assert not os.path.exists(path)
    nothing_left()


def test_with_passes_an_error_on(sshd, keywords, nothing_left):
    """And closes, too."""
    with pytest.raises(ZeroDivisionError), Runtime(sshd.alias, **keywords):
        raise ZeroDivisionError
    nothing_left()


def test_close_does_what_cleanup_does(own_runtime, nothing_left):
    """An override of cleanup runs as well."""
    done = []
    cleanup = own_runtime.cleanup
    own_runtime.cleanup = lambda: [cleanup(), done.append("cleanup")]
    own_runtime.close()
    own_runtime.close()
    assert done == ["cleanup", "cleanup"]
    assert not os.path.exists(own_runtime.working_dir)


def test_use_after_close_logs_in_again(own_runtime, nothing_left):
    """And what is open then is closed by the next close."""
    own_runtime.close()
    nothing_left()
    assert run(own_runtime, "echo hi") == ["hi\n"]
    own_runtime.close()
    nothing_left()


def test_runtime_of_a_subclass_is_itself_in_with(sshd, keywords):
    """`as` gives the object."""
    runtime = Picky(sshd.alias, **keywords)
    with runtime as same:
        assert same is runtime


# --- Texts ---


def test_text_of_a_runtime_is_its_class_and_its_host(sshd, keywords):
    """As in lazycluster 0.2; the repr says what it is."""
    with Picky(sshd.alias, **keywords) as runtime:
        assert str(runtime) == f"{runtime}" == f"Picky: {sshd.alias}"
        assert repr(runtime) == f"<Runtime {sshd.alias!r}>"
        assert Runtime.__str__(runtime) == f"Picky: {sshd.alias}"


def test_a_runtime_has_a_logger(runtime, caplog):
    """Below the logger of the library."""
    with caplog.at_level(logging.INFO, "lazycluster"):
        runtime.log.info("mine")
    assert [record.getMessage() for record in caplog.records] == ["mine"]


# --- Variables ---


def test_variables_are_live(own_runtime):
    """Later tasks get what is changed in them."""
    variables = own_runtime.env_variables
    variables["A"] = "1"
    variables.update(B=2, C=True)
    variables |= {"D": 0.5}
    assert run(own_runtime, "echo $A $B $C $D") == ["1 2 True 0.5\n"]
    del variables["A"]
    variables.pop("B")
    assert run(own_runtime, 'echo "[$A$B$C]"') == ["[True]\n"]
    own_runtime.env_variables = {"E": 5}
    assert variables == {"E": "5", "WORKING_DIR": own_runtime.working_dir}
    own_runtime.add_env_variables({"F": 6})
    assert own_runtime.env_variables is variables
    assert run(own_runtime, 'echo "[$C$E$F]"') == ["[56]\n"]
    assert call(own_runtime, os.getenv, key="F") == "6"


def test_variables_have_the_working_directory_of_the_moment(own_runtime, tmp_path):
    """However it changes."""
    variables = own_runtime.env_variables
    own_runtime.working_dir = str(tmp_path)
    assert variables == {"WORKING_DIR": str(tmp_path)}
    with pytest.raises(ValueError, match="working_dir"):
        variables["WORKING_DIR"] = "/"
    with pytest.raises(ValueError, match="working_dir"):
        own_runtime.env_variables = {"WORKING_DIR": "/"}
    own_runtime.env_variables = {**variables, "A": "1"}
    assert variables == {"WORKING_DIR": str(tmp_path), "A": "1"}


def test_variables_have_the_new_temporary_directory_after_a_loss(own_runtime):
    """Once it is there; reading them does not log in."""
    variables = own_runtime.env_variables
    old = variables["WORKING_DIR"]
    own_runtime.cleanup()
    assert own_runtime.env_variables == {"WORKING_DIR": old}
    assert not os.path.exists(old)
    assert run(own_runtime, "pwd") == [variables["WORKING_DIR"] + "\n"]
    assert variables["WORKING_DIR"] == own_runtime.working_dir != old


def test_copies_of_the_variables_are_plain(own_runtime):
    """They can be sent, stored and changed."""
    variables = own_runtime.env_variables
    for copied in (copy.deepcopy(variables), pickle.loads(pickle.dumps(variables))):
        assert type(copied) is dict
        assert copied == variables
    assert call(own_runtime, dict, sent=variables) == {"sent": variables}


def test_variables_of_a_task_are_live_and_checked():
    """Also those of a copy."""
    task = RuntimeTask("t")
    for variables in (
        task.env_variables,
        copy.deepcopy(task).env_variables,
        pickle.loads(pickle.dumps(task)).env_variables,
    ):
        variables["A"] = 1
        assert variables == {"A": "1"}
        with pytest.raises(ValueError, match="name"):
            variables["1"] = "x"
    task.env_variables = {"B": 2.5}
    assert task.env_variables == {"B": "2.5"}
