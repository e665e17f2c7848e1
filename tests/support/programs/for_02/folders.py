"""Make and delete folders, and let the host expand variables."""

from lazycluster import Runtime

runtime = Runtime("host-1", working_dir="$HOME/work")
print(runtime.echo("${PWD}") == runtime.working_dir)  # => True
print(runtime.working_dir == runtime.echo("$HOME") + "/work")  # => True
runtime.create_dir("${HOME}/work/a/b")
print(runtime.delete_dir("$HOME/work/a"), runtime.delete_dir("$HOME/work/a"))  # => True False
temporary = runtime.create_tempdir()
print(runtime.delete_dir(temporary))  # => True
print(runtime.echo(5))  # => 5
