"""Start tasks, wait for all, and read what the functions returned."""

from lazycluster import Runtime, RuntimeTask


def lower(docs):
    return [str(doc).lower() for doc in docs]


runtime = Runtime("host-1")
for start in range(3):
    runtime.execute_task(RuntimeTask().run_function(lower, docs=[f"A{start}", "B"]))
runtime.join()
for chunk in runtime.function_returns:
    print(chunk)
# => ['a0', 'b']
# => ['a1', 'b']
# => ['a2', 'b']

task = RuntimeTask()
task.omit_on_join = False
task.name = "named"
print(task, task.process)  # => RuntimeTask: named None
runtime.execute_task(task.run_command("true"))
task.join()
print(task.process.exitcode)  # => 0
print(runtime.execute_function(lower, docs=["X"]).name)  # => execute-function-lower
