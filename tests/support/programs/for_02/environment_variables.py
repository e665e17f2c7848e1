"""Set variables of a Runtime in each way, and read them in commands and functions."""

import os

from lazycluster import Runtime, RuntimeTask


def read(name):
    return os.environ[name]


runtime = Runtime("host-1")
runtime.env_variables = {"foo": "bar"}
runtime.env_variables["answer"] = 42
runtime.env_variables.update({"three": "3"})
runtime.add_env_variables({"four": "4"})

task = RuntimeTask("read").run_command("echo $foo $answer $three $four")
runtime.execute_task(task, execute_async=False)
print(task.execution_log[0].strip())  # => bar 42 3 4

task = runtime.execute_function(read, name=Runtime.WORKING_DIR_ENV_VAR_NAME)
print(next(task.function_returns) == runtime.working_dir)  # => True
print(runtime.env_variables["WORKING_DIR"] == runtime.working_dir)  # => True

task = RuntimeTask("own")
task.env_variables = {"foo": "of the task"}
task.run_command("echo $foo")
runtime.execute_task(task, execute_async=False)
print(task.execution_log[0].strip())  # => of the task
