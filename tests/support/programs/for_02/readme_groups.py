"""Make groups, set their variables, and print the output live, as the README of 0.2 does."""

from lazycluster import Runtime, RuntimeGroup, RuntimeTask

rt_1 = Runtime("host-1")
rt_2 = Runtime("host-2", working_dir="~/workspace")

# In this case you get a group where both Runtimes have different working directories.
# The working directory on host-1 will be a temp one and gets removed eventually.
runtime_group = RuntimeGroup([rt_1, rt_2])
print([rt.working_dir.endswith("/workspace") for rt in (rt_1, rt_2)])  # => [False, True]

# Here, the group internally creates Runtimes for both hosts and sets its working directory.
runtime_group = RuntimeGroup(hosts=["host-1", "host-2"], working_dir="~/workspace")
print([rt.working_dir.endswith("/workspace") for rt in runtime_group.runtimes])  # => [True, True]

# Directly set the env vars per Runtimes
rt = Runtime("host-1")
rt.env_variables = {"foo": "bar"}

# Or use the convenient method to the the env vars
# for all Runtimes in a RuntimeGroup
group = RuntimeGroup(hosts=["host-1", "host-2"])
group.set_env_variables({"foo": "bar"})
show = RuntimeTask("show").run_command("echo $foo")
group.execute_task(show, broadcast=True)
group.join()
group.print_log()
# => Log of Task show on host-1:
# => 0: echo $foo
# =>    bar
# => Log of Task show on host-2:
# => 0: echo $foo
# =>    bar

task = RuntimeTask("debug-test").run_command("echo Python")
group = RuntimeGroup(hosts=["gaia-1", "gaia-2"])
tasks = group.execute_task(task, debug=True)
group.join()
# => Python

# Create instances
group = RuntimeGroup([Runtime("host-1"), Runtime("host-2")])
# group = RuntimeGroup(hosts=['host-1', 'host-2'])
my_task = RuntimeTask("group-demo").run_command("echo Hello Group!")

# Execute a RuntimeTask in a single Runtime
single_task = group.execute_task(my_task)
group.join()
print(single_task.execution_log[0].strip())  # => Hello Group!

# Execute a RuntimeTask in the whole RuntimeGroup
task_list = group.execute_task(my_task, broadcast=True)

# Execute a RuntimeTask on a single Runtime contained in the RuntimeGroup
task = group.execute_task(my_task)
group.join()
print([each.execution_log for each in task_list] == [task.execution_log] * 2)  # => True
