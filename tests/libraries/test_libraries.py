"""Popular libraries in functions, on hosts that have them and on hosts that do not."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

import pytest

from lazycluster import RuntimeManager, RuntimeTask
from support.matrix.places import Host, check, parameters


@pytest.mark.parametrize(("case", "place"), parameters(libraries=True))
def test_it_travels(runtime, case, place, tmp_path, monkeypatch):
    """On a host that has the same versions."""
    check(case, place, Host(runtime), tmp_path, monkeypatch)


USES = {
    "numpy": "numpy.zeros(3)",
    "pandas": "pandas.DataFrame({'a': [1]})",
    "polars": "polars.DataFrame({'a': [1]})",
    "pyarrow": "pyarrow.array([1])",
    "pydantic": "pydantic.TypeAdapter(int)",
    "attrs": "attrs.make_class('C', [])",
    "msgspec": "msgspec.json.encode(1)",
    "sqlalchemy": "sqlalchemy.create_engine('sqlite://')",
    "loguru": "loguru.logger.info('x')",
    "rich": "rich.print('x')",
    "tqdm": "tqdm.tqdm([])",
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that makes and imports a local module."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        made.append(name)
        return __import__(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("library", USES)
def test_a_library_that_only_the_manager_has_is_missed_where_it_is_used(
    bare_runtime, module, library
):
    """What the same module does without it works."""
    local = module(
        f"uses_{library}",
        f"""
        import {library}

        def use():
            return {USES[library]}  # the use

        def other(x: "{library}.Any" = None):
            return 3

        class Local:
            def get(self):
                return 4
        """,
    )
    assert bare_runtime.call(local.other) == 3
    assert bare_runtime.call(local.Local().get) == 4
    with pytest.raises(ModuleNotFoundError, match=library) as caught:
        bare_runtime.call(local.use)
    assert "# the use" in str(caught.value.__cause__)


def test_a_base_class_that_only_the_manager_has(bare_runtime, module):
    """Its subclasses cannot be made there; the rest of the module works."""
    local = module(
        "uses_a_base",
        """
        import pydantic
        from pydantic import BaseModel

        class Model(BaseModel):
            n: int = 1

        def use():
            return Model().n

        def other():
            return 3
        """,
    )
    assert bare_runtime.call(local.other) == 3
    with pytest.raises(ModuleNotFoundError, match="pydantic"):
        bare_runtime.call(local.use)


def test_an_argument_of_a_library_that_the_host_lacks(bare_runtime):
    """The function has not run; the error names the library."""
    numpy = pytest.importorskip("numpy")
    with pytest.raises(Exception, match="numpy"):
        bare_runtime.call(len, numpy.zeros(3))


def preprocess(docs):
    return [str(doc).lower() for doc in docs]


@pytest.mark.parametrize("generator", ["MT19937", "PCG64"])
def test_preloaded_numpy_draws_other_numbers_in_each_call(runtime, module, generator):
    """All calls are forked from one process, whose module may have chosen the generator."""
    local = module(
        f"draws_by_{generator.lower()}",
        f"""
        import numpy.random

        numpy.random.set_bit_generator(numpy.random.{generator}(7))

        def draw():
            return numpy.random.random(), numpy.random.get_bit_generator().__class__.__name__
        """,
    )
    view = runtime.with_options(preload=[local.__name__])
    drawn = [view.call(local.draw) for _ in range(4)]
    assert {name for _, name in drawn} == {generator}
    assert len({number for number, _ in drawn}) == len(drawn)


def test_the_preprocessing_example_of_02(equipped_sshd, tmp_path, monkeypatch):
    """It reads a file with pandas, and a RuntimeManager finds the host in the user's ssh_config."""
    import pandas as pd

    names = tmp_path / ".ssh" / "config"
    names.parent.mkdir()
    names.write_text(f"Host {equipped_sshd.alias}\n")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{equipped_sshd.config_file}" "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
    file_path = tmp_path / "file.csv"
    file_path.write_text("number;text\n" + "".join(f"{n};TEXT {n}\n" for n in range(1200)))

    runtime_group = RuntimeManager().create_group()
    tasks = []
    # Distribute chunks of the csv and start the preprocessing in parallel in the RuntimeGroup
    for df_chunk in pd.read_csv(file_path, sep=";", chunksize=500):
        task = RuntimeTask().run_function(preprocess, docs=df_chunk["text"].tolist())
        tasks.append(runtime_group.execute_task(task))
    # Wait until all executions are done
    runtime_group.join()
    chunks = list(runtime_group.function_returns)
    for runtime in runtime_group.runtimes:
        runtime.cleanup()

    assert [len(chunk) for chunk in chunks] == [500, 500, 200]
    assert [text for chunk in chunks for text in chunk] == [f"text {n}" for n in range(1200)]
