"""Decide in a subclass which host can be used."""

from lazycluster import InvalidRuntimeError, Runtime


class Checked(Runtime):
    def is_valid_runtime(self):
        return super().is_valid_runtime() and self.check_filter(
            min_cpu_cores=1, installed_executables=["sh", "sleep"], filter_commands="echo true"
        )


class Refused(Runtime):
    def is_valid_runtime(self):
        return self.check_filter(min_cpu_cores=100000)


checked = Checked("host-1")
print(checked, checked.class_name)  # => Checked: host-1 Checked
try:
    Refused("host-1")
except InvalidRuntimeError:
    print("refused")  # => refused
checked.cleanup()
