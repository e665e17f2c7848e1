"""Broadcast tasks in a group, execute one on a single host, and expose a port to all."""

import os
import socket

from lazycluster import Runtime, RuntimeGroup, RuntimeTask
from lazycluster.exceptions import InvalidRuntimeError, NoPortsLeftError, PortInUseError
from lazycluster.runtime_mgmt import RuntimeGroup as TheSame

print(RuntimeGroup is TheSame)  # => True

folder = os.path.join(os.getcwd(), "work")
group = RuntimeGroup(hosts=["host-1", "host-2"], working_dir=folder)
print([runtime.working_dir == folder for runtime in group.runtimes])  # => [True, True]
print(group.hosts, group.runtime_count)  # => ['host-1', 'host-2'] 2
group.print_hosts()
# => host-1
# => host-2

group.set_env_variables({"FOO": "bar"})
group.add_env_variables({"BAZ": "1"})


def total(first, second):
    return first + second


task = (
    RuntimeTask("group-demo").run_command("echo $FOO $BAZ").run_function(total, first=2, second=3)
)
tasks = group.execute_task(task, broadcast=True)
group.join()
for each in tasks:
    print(each.name, each.execution_log[0].strip())
    # => group-demo bar 1
# => group-demo bar 1
print(list(group.function_returns))  # => [5, 5]
print(len(group.task_processes))  # => 2
group.clear_tasks()

single = group.execute_task(RuntimeTask("single").run_command("echo one"), execute_async=False)
print(single.execution_log[0].strip())  # => one
on_second = RuntimeTask("second").run_command("echo two")
group.execute_task(on_second, "host-2", False, False)
print(group.get_runtime("host-2").execution_log("second"))  # => ['two\n']
try:
    group.execute_task(on_second, host="host-3")
except ValueError:
    print("no host-3")  # => no host-3

with open("data.txt", "w") as file:
    file.write("some data")
sent = group.send_file("data.txt")
group.join()
print(len(sent), os.listdir(folder))  # => 2 ['data.txt']

with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as other:
    local_port = server.getsockname()[1]
    other.bind(("127.0.0.1", 0))
    used = other.getsockname()[1]
    print(group.has_free_port(local_port))  # => False
    port = group.expose_port_to_runtimes(local_port, list(range(42000, 42100)))
    print(port in range(42000, 42100))  # => True
    try:
        group.expose_port_to_runtimes(local_port, used)
    except PortInUseError:
        print("in use")  # => in use
    try:
        group.get_free_port([local_port])
    except NoPortsLeftError:
        print("none left")  # => none left

print(list(group.get_runtimes(exclude_hosts="host-1")))  # => ['host-2']
group.remove_runtime("host-2")
group.add_runtime(runtime=Runtime("host-2"))
print(group.contains_runtime("host-2"))  # => True
print(group)  # => RuntimeGroup: Runtime: host-1, Runtime: host-2
try:
    RuntimeGroup(hosts=["host-1", "no-such-host.invalid"])
except InvalidRuntimeError:
    print("not usable")  # => not usable
group.cleanup()
