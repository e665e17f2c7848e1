"""Send a file by a task and by the Runtime, work on it, and get it back."""

import os

from lazycluster import Runtime, RuntimeTask

os.mkdir("local_path")
with open("local_path/file.csv", "w") as file:
    file.write("a;b\n1;2\n")

runtime = Runtime("host-1")
task = RuntimeTask("file-transfer")
task.send_file("local_path/file.csv")
task.run_command("tr a-z A-Z < file.csv > upper.csv")
task.get_file("upper.csv")
runtime.execute_task(task, execute_async=False)
print(open("upper.csv").read().split())  # => ['A;B', '1;2']

task = runtime.send_file("local_path/file.csv", "", execute_async=True)
task.join()
task = runtime.get_file("file.csv", "copy.csv")
print(task.name.startswith("get-file-"), task.name.endswith("-from-host-1"))  # => True True
print(open("copy.csv").read().split())  # => ['a;b', '1;2']

try:
    runtime.send_file("no/such/file")
except FileNotFoundError as error:
    print(os.path.basename(error.filename))  # => file
