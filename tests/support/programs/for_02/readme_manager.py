"""Let a RuntimeManager find the hosts, send them files, and compute there, as the README of 0.2."""

import os

from lazycluster import Runtime, RuntimeManager, RuntimeTask
from lazycluster.runtime_mgmt import RuntimeManager as TheSame

os.mkdir("local_path")
for name in ("local_path/file.csv", "train.csv", "test.csv"):
    with open(name, "w") as file:
        file.write(f"text\n{os.path.basename(name).upper()}\n")

# Automatically generate a group based on the ssh configuration
runtime_manager = RuntimeManager()
runtime_group = runtime_manager.create_group()
print(runtime_group, TheSame is RuntimeManager)
# => RuntimeGroup: Runtime: host-1, Runtime: host-2 True
print(runtime_manager.inactive_hosts)  # => ['no-such-host.invalid']

# Send a file to a single Runtime
runtime = Runtime("host-1")
runtime.send_file("local_path/file.csv", execute_async=False)

# Send a file to a whole RuntimeGroup
group = RuntimeManager().create_group()
group.send_file("local_path/file.csv", execute_async=True)
group.join()
print(group.run("cat file.csv").folded().split())  # => ['host-[1-2]:', 'text', 'FILE.CSV']

# 1st: Create a RuntimeGroup, e.g. by letting the RuntimeManager detect
#      available hosts (i.e. Runtimes) and create the group with a persistent
#      working directory for you.
runtime_group = RuntimeManager().create_group(working_dir="~/hyperopt")

# 2nd: Send the training - and test dataset to all Runtimes
train_file_name = "train.csv"
test_file_name = "test.csv"

# Per default the file will be send asynchronously to Runtime's working directory
runtime_group.send_file(train_file_name)
runtime_group.send_file(test_file_name)

# 3rd: Ensure that the processes for sending the files terminated already,
#      since we sent the files async in 2nd step.
runtime_group.join()


def train(params):
    import os

    train_path = os.path.join(os.environ["WORKING_DIR"], params["train_set_file_name"])
    test_path = os.path.join(os.environ["WORKING_DIR"], params["test_set_file_name"])
    return [open(path).read().split()[1] for path in (train_path, test_path)]


params = {"train_set_file_name": train_file_name, "test_set_file_name": test_file_name}
runtime_group.execute_task(RuntimeTask().run_function(train, params=params), broadcast=True)
runtime_group.join()
for values in runtime_group.function_returns:
    print(values)
    # => ['TRAIN.CSV', 'TEST.CSV']
# => ['TRAIN.CSV', 'TEST.CSV']

wanted = RuntimeManager().create_group(
    exclude_hosts="host-1",
    min_memory=1,
    min_cpu_cores=1,
    installed_executables=["sh", "ls"],
    filter_commands='[ ! -z "$HOME" ] && echo "true" || echo "false"',
)
print(wanted.hosts)  # => ['host-2']
