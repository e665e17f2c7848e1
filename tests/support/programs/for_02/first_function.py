"""Compose a task of a command and a function, and read log and value."""

from lazycluster import Runtime, RuntimeTask


def hello(name: str):
    return "Hello " + name + "!"


task = RuntimeTask("first").run_command("echo Hello World!").run_function(hello, name="World")
task = Runtime("host-1").execute_task(task, execute_async=False)
print(task.execution_log)  # => ['Hello World!\n', '']
generator = task.function_returns
print(next(generator))  # => Hello World!
