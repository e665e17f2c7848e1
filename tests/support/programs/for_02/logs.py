"""Keep the logs below a folder of one's own, and print them."""

import logging
import os

from lazycluster import Environment, Runtime, RuntimeTask

Environment.set_third_party_log_level(logging.ERROR)
Environment.set_main_directory("./logs")
print(Environment.main_directory == os.path.abspath("logs"))  # => True

task = RuntimeTask("log-demo")
task.run_command("echo Hello")
task.run_command("true")
task.run_command("echo lazycluster!")
runtime = Runtime("host-1")
runtime.execute_task(task, execute_async=False)
print(task.execution_log[0].strip(), task.execution_log[2].strip())  # => Hello lazycluster!
print(task.execution_log[1] == "")  # => True
path = task.execution_log_file_path
print(os.path.dirname(path) == os.path.abspath("logs/execution_log/host-1"))  # => True
print(open(path).read().split())  # => ['Hello', 'lazycluster!']
print(runtime.execution_log("log-demo") == task.execution_log)  # => True
