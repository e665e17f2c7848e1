"""An SSH server made with asyncssh, for commands, SFTP and forwards.

    python asyncssh_server.py <port> <host key> <authorized keys> <home> [<prompt> <answer> ...]

With prompts, the host asks these questions instead of for a key (keyboard-interactive), and prints
each answer that it gets.
Its commands are in its own process group, as in the examples of asyncssh.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
from typing import Any


async def copy(source: Any, target: Any) -> None:
    while data := await source.read(65536):
        target.write(data)


async def main(port: str, host_key: str, authorized_keys: str, home: str, *challenges: str) -> None:
    import asyncssh

    account = pwd.getpwuid(os.getuid())
    environment = {**os.environ, "HOME": home, "USER": account.pw_name, "SHELL": account.pw_shell}

    class Server(asyncssh.SSHServer):
        def connection_requested(self, *_: Any) -> bool:
            return True

        def server_requested(self, *_: Any) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return not challenges

        def kbdint_auth_supported(self) -> bool:
            return bool(challenges)

        def get_kbdint_challenge(self, *_: Any) -> Any:
            self.asked = 0
            return self.challenge()

        def challenge(self) -> Any:
            return "", "", "en", [(challenges[2 * self.asked], False)]

        def validate_kbdint_response(self, username: str, responses: Any) -> Any:
            print("answer:", *responses, flush=True)
            if [*responses] != [challenges[2 * self.asked + 1]]:
                return False
            self.asked += 1
            return self.challenge() if 2 * self.asked < len(challenges) else True

    async def run(process: Any) -> None:
        shell = await asyncio.create_subprocess_exec(
            *(account.pw_shell, "-c", process.command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=home,
            env=environment,
        )
        assert shell.stdin is not None
        outputs = asyncio.gather(
            copy(shell.stdout, process.stdout), copy(shell.stderr, process.stderr)
        )
        inputs = asyncio.ensure_future(copy(process.stdin, shell.stdin))
        inputs.add_done_callback(lambda _: shell.stdin.close())
        while shell.returncode is None:  # wait() would wait for the end of the pipes, too
            await asyncio.sleep(0.01)
        inputs.cancel()
        await outputs
        if shell.returncode < 0:
            process.exit_with_signal(signal.Signals(-shell.returncode).name[3:])
        else:
            process.exit(shell.returncode)

    server = await asyncssh.listen(
        "127.0.0.1",
        int(port),
        server_factory=Server,
        server_host_keys=[host_key],
        authorized_client_keys=None if challenges else authorized_keys,
        process_factory=run,
        sftp_factory=True,
        allow_scp=True,
        encoding=None,
    )
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
