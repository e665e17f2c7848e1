"""Make PyInstaller collect what is sent to hosts: shell scripts and sources, also cloudpickle's."""

from PyInstaller.utils.hooks import collect_data_files

datas = [
    *collect_data_files("lazycluster", include_py_files=True),
    *collect_data_files("cloudpickle", include_py_files=True),
]
