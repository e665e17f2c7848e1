"""Ask what a host is and has."""

from lazycluster import Runtime

runtime = Runtime("host-1")
print(runtime.host, runtime.is_valid_runtime())  # => host-1 True
print(sorted(runtime.info))  # => ['cpu_cores', 'gpus', 'host', 'memory', 'os', 'python_version']
print(runtime.cpu_cores >= 1, runtime.memory_in_mb > 10)  # => True True
print(runtime.gpu_count == len(runtime.gpus))  # => True
print(runtime.check_filter(min_memory=1, installed_executables="sh", filter_commands=""))  # => True
print(runtime.check_filter(installed_executables="no-such-program"))  # => False
