"""Catch what fails, by the names of 0.2."""

import os

from lazycluster import (
    InvalidRuntimeError,
    LazyclusterError,
    PathCreationError,
    Runtime,
    RuntimeTask,
    TaskExecutionError,
)

runtime = Runtime("host-1")
task = RuntimeTask("fails").run_command("echo one").run_command("echo two; exit 3")
try:
    runtime.execute_task(task, execute_async=False)
except TaskExecutionError as error:
    print(error.task_step_index, error.host)  # => 1 host-1
    print(error.task is task, error.output.strip())  # => True two
    print(os.path.exists(error.execution_log_file_path))  # => True
    print(error.msg == str(error), error.predecessor_excp is error.__cause__)  # => True True

try:
    Runtime("host-1", working_dir="/proc/no/such")
except PathCreationError as error:
    print(isinstance(error, LazyclusterError))  # => True
try:
    Runtime("no-such-host")
except InvalidRuntimeError as error:
    print(error.host)  # => no-such-host
try:
    task.execute("no-such-host")
except ValueError as error:
    print(type(error).__name__)  # => ConnectError


def fail():
    return 1 / 0


runtime.clear_tasks()
tasks = [RuntimeTask().run_function(each) for each in (dict, fail, list)]
for task in tasks:
    runtime.execute_task(task)
runtime.join()
values = []
try:
    values.extend(runtime.function_returns)
except TaskExecutionError as error:
    print(values, error.task is tasks[1])  # => [{}, None, []] True
