"""Look at the processes of a Runtime, and stop one."""

from lazycluster import Runtime, RuntimeTask

runtime = Runtime("host-1")
service = RuntimeTask("service").run_command("sleep 1000")
runtime.execute_task(service, omit_on_join=True)
runtime.join()
runtime.execute_task(RuntimeTask("short").run_command("true"))
runtime.join()

print(list(runtime.get_processes()))  # => ['host-1::task::service', 'host-1::task::short']
print(runtime.alive_process_count, runtime.alive_task_process_count)  # => 1 1
(key,) = runtime.get_processes(only_alive=True)
print(Runtime.is_runtime_task_process(key), Runtime.is_port_exposure_process(key))  # => True False
print(service.process is runtime.get_process(key), service.process.is_alive())  # => True True
runtime.stop_process(key)
print(service.process.is_alive(), service.process.exitcode)  # => False -15
runtime.clear_tasks()
print(runtime.get_processes(), runtime.task_processes)  # => {} []
try:
    runtime.get_process(key)
except ValueError:
    print("unknown")  # => unknown
