"""Execute one task on two Runtimes at once, and copies of another one."""

import copy

from lazycluster import Runtime, RuntimeTask

runtimes = [Runtime("host-1"), Runtime("host-2")]
task = RuntimeTask("slow").run_command("sleep 0.3; echo done")
for runtime in runtimes:
    runtime.execute_task(task)
    runtime.execute_task(task)
for runtime in runtimes:
    runtime.join()
    print(runtime.execution_log("slow"))
    # => ['done\n']
# => ['done\n']

original = RuntimeTask("copied").run_command("echo copied")
copies = [copy.deepcopy(original) for _ in range(2)]
for runtime, each in zip(runtimes, copies):
    runtime.execute_task(each)
for runtime in runtimes:
    runtime.join()
print([each.name for each in copies])  # => ['copied-1', 'copied-2']
print([each.execution_log[0].strip() for each in copies])  # => ['copied', 'copied']
print(original.execution_log)  # => []
