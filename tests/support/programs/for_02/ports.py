"""Expose a service in both directions."""

import http.server
import threading
import urllib.request

from lazycluster import PortInUseError, Runtime


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page")

    def log_message(self, *arguments):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()

runtime = Runtime("host-1")
free = runtime.get_free_port(list(range(21000, 21200)))
print(runtime.has_free_port(free))  # => True
key = runtime.expose_port_to_runtime(server.server_port, free)
print(key == f"host-1::-R::{free}::{server.server_port}")  # => True
print(Runtime.is_port_exposure_process(key))  # => True


def fetch(url):
    return urllib.request.urlopen(url, timeout=60).read()


url = f"http://127.0.0.1:{free}/"
print(next(runtime.execute_function(fetch, url=url).function_returns))  # => b'a page'

local = runtime.get_free_port(list(range(21200, 21400)))
back = runtime.expose_port_from_runtime(free, local)
print(urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=60).read())  # => b'a page'
try:
    runtime.expose_port_from_runtime(free, local)
except PortInUseError:
    print("in use")  # => in use
runtime.stop_process(back)
runtime.stop_process(key)
print(runtime.alive_process_count)  # => 0
